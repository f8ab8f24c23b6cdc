# Build rules shared by every folder: warnings, sanitizers, bora_library, bora_binary, bora_test,
# bora_fuzzer, bora_cuda_options.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")

find_program(BORA_CCACHE ccache)
if(BORA_CCACHE)
  # Paths below the source are relative in its hashes, so that another checkout finds the same results.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
                                  CCACHE_NOHASHDIR=1 ${BORA_CCACHE})
endif()
find_program(BORA_MOLD mold)
if(BORA_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Contracting a*b+c would make results depend on the instruction set; kernels that may contract say so.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

# Tells the same test of several builds apart.
set(BORA_TEST_PREFIX "")
if(BORA_SANITIZE MATCHES "address")
  set(BORA_TEST_PREFIX "asan.")
elseif(BORA_SANITIZE MATCHES "thread")
  set(BORA_TEST_PREFIX "tsan.")
endif()

if(BORA_SANITIZE)
  add_compile_options(-fsanitize=${BORA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${BORA_SANITIZE})
  # Debian's gRPC is not instrumented; these match its headers to that.
  add_compile_definitions(GRPC_ASAN_SUPPRESSED GRPC_TSAN_SUPPRESSED)
endif()

function(bora_warnings target)
  set(warnings -Wall -Wextra -Wno-missing-field-initializers)
  if(BORA_WERROR)
    list(APPEND warnings -Werror)
  endif()
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>)
endfunction()

# Of a target's CUDA files. Kernels call constexpr functions of base/ and of the views. tests/cuda_host/registers_test.py
# has the same flags.
function(bora_cuda_options target)
  set(options --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra)
  if(BORA_WERROR)
    list(APPEND options -Werror all-warnings)
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${options}>")
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${BORA_CUDA_ARCHITECTURES}" CUDA_RUNTIME_LIBRARY Static)
endfunction()

# bora_library(NAME SRCS a.cc ... DEPS x ...): a static library that sees the source root as include path.
function(bora_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} PUBLIC ${ARG_DEPS})
    bora_warnings(${name})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# bora_binary(NAME SRCS main.cc DEPS ...): an executable in <build>/bin.
function(bora_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(BORA_SANITIZE)
    # Tests of sanitizer builds do not run programs; ask for one by name.
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL TRUE)
  endif()
  bora_warnings(${name})
endfunction()

# bora_test(NAME SRCS a_test.cc ... DEPS ... LABEL unit [TIMEOUT s]): one GoogleTest binary = one ctest.
function(bora_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  # Only files that name a folder are compiled with its path, so that ccache finds the others' results from another checkout.
  foreach(source IN LISTS ARG_SRCS)
    set(names_folder "")
    if(source MATCHES "\\.(cc|cu)$")
      file(STRINGS ${source} names_folder REGEX "BORA_(SOURCE|BINARY)_DIR" LIMIT_COUNT 1)
    endif()
    if(names_folder)
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_DEFINITIONS BORA_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                                                        BORA_BINARY_DIR="${CMAKE_BINARY_DIR}")
    endif()
  endforeach()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  bora_warnings(${name})
  if(NOT ARG_LABEL)
    set(ARG_LABEL unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_test(NAME ${BORA_TEST_PREFIX}${name} COMMAND ${name})
  set_tests_properties(${BORA_TEST_PREFIX}${name} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT ${ARG_TIMEOUT}
                                          SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\] [1-9][0-9]* test")
endfunction()

# bora_python_test(NAME SCRIPT x.py LABEL e2e [TIMEOUT s] [ARGS ...]): runs a Python script as a test,
# with BORA_BINARY_DIR and BORA_SOURCE_DIR in its environment. Exit code 77 means skipped. Not in sanitizer
# builds: what such scripts run are the programs of the release build.
function(bora_python_test name)
  if(BORA_SANITIZE)
    return()
  endif()
  cmake_parse_arguments(ARG "" "SCRIPT;LABEL;TIMEOUT" "ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_test(NAME ${name}
           COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_SCRIPT} ${ARG_ARGS}
           WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  set_tests_properties(
    ${name} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77 ENVIRONMENT
            "BORA_BINARY_DIR=${CMAKE_BINARY_DIR};BORA_SOURCE_DIR=${CMAKE_SOURCE_DIR};PYTHONPATH=${CMAKE_SOURCE_DIR}/tests/e2e:${CMAKE_BINARY_DIR}/python")
  # Several processes on all cores, with limits on time.
  set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
endfunction()

# bora_fuzzer(NAME SRCS x_fuzz.cc DEPS ... CORPUS dir): a libFuzzer binary (BORA_FUZZ=ON, clang) that ctest
# runs for 20 seconds from the committed corpus.
function(bora_fuzzer name)
  cmake_parse_arguments(ARG "" "CORPUS" "SRCS;DEPS" ${ARGN})
  if(NOT BORA_FUZZ)
    return()
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  bora_warnings(${name})
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz/${name}.found)
  add_test(NAME ${name}
           COMMAND ${name} -max_total_time=20 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1
                   ${CMAKE_BINARY_DIR}/fuzz/${name}.found ${ARG_CORPUS})
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
