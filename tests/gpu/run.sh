#!/usr/bin/env bash
# Builds the engine without gRPC for the GPU of this machine, tests its operations on it and measures them:
#   tests/gpu/run.sh [tests] [bench] [model] [profile] [torch] [sanitizers]     all without arguments; at most 10 minutes on 16 cores
# What answers most in the least time comes first, and every step has a limit of its own:
# bench       bora-bench-gpu: first the limits of the GPU and whether wgmma has the bits of mma.sync, after the tests of operations
#             the rest. Rows `figure NAME VALUE UNIT p10 A p90 B [limit L] [peer P] [ratio R]`
# tests       gpu_ops_test (the tests of tests/cuda on the GPU), a process for each suite, so that one that ends badly does not
#             hide the others; tests that fail are run again under memcheck at once. After the benchmarks gpu_same_bytes_test and
#             gpu_processes_test (groups of ranks that share the GPU), the latter a process for each test, and those of cuBLASLt
#             and NCCL
# model       bora-bench-gpu-model: a 7B model of made-up weights, steps and throughput beside their floors, deterministic beside
#             fast; three cases first, the others when all else is done
# profile     Nsight Compute on one launch of the kernels that matter
# torch       tests/gpu/torch_peer.py: the same shapes by PyTorch, as rows `figure torch_...`, and generation by transformers
# sanitizers  the tests of our own kernels under compute-sanitizer's memcheck and racecheck; last, because they are slow
# What is missing (a GPU, compute-sanitizer, ncu, PyTorch with CUDA) is skipped: `skipped N ...` says how much; `incomplete ...` is
# a sanitizer that found nothing before its time was over. The exit code is 0 unless the build fails, a test fails, a
# sanitizer finds something or a program ends badly.
#
# Each program's whole output is a file of OUT (a temporary folder unless it is set), all that is printed is OUT/log, and the last
# lines, at most 60, are a summary. It needs nvcc (CUDA 13), CMake 3.25 and a C++20 compiler; ninja where there is one, else make.
# Abseil, GoogleTest, nlohmann-json and OpenSSL come from the system or from BORA_DEPS, a folder that tests/gpu/pack-deps.sh made
# (default build/gpu-deps where that exists). Nothing is built where build/gpu-bin has the programs and they start (the target
# bora_gpu of another machine: its folders bin and test), or with BORA_BINARY_DIR, a build to use as it is. BORA_SANITIZER_FILTER:
# another choice of tests for the sanitizers. BORA_GPU_DEADLINE_S: seconds for all, 590. Settings of the GPU are left as they are;
# its clocks are reported.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
steps=${*:-tests bench model profile torch sanitizers}
for name in $steps; do
  case $name in tests | bench | model | profile | torch | sanitizers) ;; *) sed -n '2,3p' "$0" >&2; exit 2 ;; esac
done
logs=${OUT:-$(mktemp -d)}
mkdir -p "$logs"
exec > >(tee "$logs/log") 2>&1
failures=()
results=()  # a line of the summary each
deadline_s=${BORA_GPU_DEADLINE_S:-590}  # of $SECONDS

step() { printf '\n== %s (%ds)\n' "$1" "$SECONDS"; }
wants() { case " $steps " in *" $1 "*) true ;; *) false ;; esac; }
has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

# What says something: not each test that went well, and nothing twice.
tidy() {
  grep --line-buffered -vE '^$|^\[-+\]|^\[ +(RUN|OK) +\]|^\[  SKIPPED \] [A-Z]|: Skipped$' |
    awk '!seen[$0]++ { print; fflush() }'
}

# Runs for at most so many seconds, with the output kept in a file too; `status` is 124 when that was not enough.
run_for() {  # name seconds command...
  local name=$1 seconds=$2
  status=0
  shift 2
  [ "$seconds" -le $((deadline_s - SECONDS)) ] || seconds=$((deadline_s - SECONDS))
  : >"$logs/$name"
  if [ "$seconds" -gt 0 ]; then
    timeout "$seconds" "$@" 2>&1 | tee "$logs/$name" | tidy || status=${PIPESTATUS[0]}
  else
    status=124
  fi
  [ "$status" -ne 124 ] || echo "$name: stopped after $seconds s"
}

# What ends badly, or not in time, is a failure; the summary has the first line that says why.
attempt() {  # name seconds command...
  local status begin=$SECONDS
  run_for "$@"
  status_of_last=$status
  if [ "$status" -eq 0 ]; then
    results+=("passed $1 ($((SECONDS - begin)) s)")
    return
  fi
  failures+=("$1")
  local why
  why=$(grep -m 1 -E 'Failure|CHECK|[Ee]rror|FAILED|Invalid|hazard|Segmentation|Aborted' "$logs/$1" | cut -c1-150 || true)
  results+=("FAILED $1: status $status after $((SECONDS - begin)) s${why:+: $why}")
}

# The folder of Python's packages that holds a file of NVIDIA's wheels (nvidia/*/lib, nvidia/*/include).
python_nvidia_folder() {  # folder/file
  python3 - "$1" 2>/dev/null <<'PYTHON' || true
import glob, os, sys
for path in sys.path:
    for found in glob.glob(os.path.join(path, "nvidia", "*", sys.argv[1])):
        print(os.path.dirname(found))
        sys.exit()
PYTHON
}

find_cuda() {
  command -v nvcc >/dev/null || export PATH="$PATH:/usr/local/cuda/bin"
  nvcc=$(command -v nvcc) || { echo "run.sh: no nvcc" >&2; exit 1; }
  cuda=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
  local library folder
  for library in libcublasLt.so.13 libnccl.so.2; do
    # A user's PATH may lack /sbin.
    PATH="$PATH:/sbin" ldconfig -p | grep -F "$library" >/dev/null && continue
    for folder in "$cuda/lib64" "$(python_nvidia_folder "lib/$library*")"; do
      if compgen -G "$folder/$library*" >/dev/null; then
        export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        break
      fi
    done
  done
}

describe_machine() {
  nvcc --version | grep release
  if has_gpu; then
    local fields=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit
    nvidia-smi "--query-gpu=$fields" --format=csv || true  # some of the fields are not every GPU's
  else
    echo "no GPU"
  fi
}

# Only for the GPU that is there: half the compile time of kernels.
architectures() {
  case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) in
    9.0) echo "90a-real" ;;
    8.*) echo "80-real" ;;
    *) echo "80-real;90a-real" ;;
  esac
}

build() {
  # Another compiler's new warnings are no reason to test nothing.
  local options=(-DCMAKE_BUILD_TYPE=Release -DBORA_WITH_GRPC=OFF -DBORA_WITH_CUDA=ON -DBORA_WERROR=OFF
                 "-DBORA_CUDA_ARCHITECTURES=$(architectures)")
  command -v ninja >/dev/null && options+=(-G Ninja)
  local deps=${BORA_DEPS:-}
  [ -z "$deps" ] && [ -d build/gpu-deps ] && deps=$root/build/gpu-deps
  if [ -n "$deps" ]; then
    options+=("-Dabsl_DIR=$(dirname "$(find "$deps" -name abslConfig.cmake)")"
              "-DGTest_DIR=$(dirname "$(find "$deps" -name GTestConfig.cmake)")"
              "-Dnlohmann_json_DIR=$(dirname "$(find "$deps" -name nlohmann_jsonConfig.cmake)")"
              -DOPENSSL_USE_STATIC_LIBS=ON "-DOPENSSL_INCLUDE_DIR=$deps/include"
              "-DOPENSSL_CRYPTO_LIBRARY=$(find "$deps" -name libcrypto.a)")
  fi
  local folder
  for folder in "$cuda/include" "$(python_nvidia_folder include/cublasLt.h)" "$deps/cublas"; do
    if [ -f "$folder/cublasLt.h" ]; then
      options+=("-DBORA_CUBLASLT_INCLUDE_DIR=$folder")
      break
    fi
  done
  binaries=$root/build/gpu
  if ! { cmake -S . -B "$binaries" "${options[@]}" &&
         cmake --build "$binaries" --target bora_gpu --parallel "$(nproc)"; } >"$logs/build" 2>&1; then
    tail -n 60 "$logs/build"
    echo "run.sh: the build failed; a machine without Abseil and GoogleTest needs tests/gpu/pack-deps.sh's folder" >&2
    exit 1
  fi
  tail -n 1 "$logs/build"
}

# The suites of a test program, without their parameters, those named first.
suites_of() {  # program suite...
  local program=$1 suite all
  shift
  all=$("$program" --gtest_list_tests | sed -nE 's/^([A-Za-z_]*\/)?([A-Za-z_0-9]+)(\/[^ ]*)?\.( .*)?$/\2/p' | awk '!seen[$0]++')
  for suite in "$@"; do grep -qx "$suite" <<<"$all" && echo "$suite"; done
  for suite in $all; do case " $* " in *" $suite "*) ;; *) echo "$suite" ;; esac; done
}

tests_of() {  # program
  "$1" --gtest_list_tests | awk '/^[^ ]/ { suite = $1 } /^ / { print suite $1 }'
}

find_sanitizer() { command -v compute-sanitizer || echo "$cuda/bin/compute-sanitizer"; }

run_operation_tests() {
  local suite sanitizer filter
  sanitizer=$(find_sanitizer)
  for suite in $(suites_of "$binaries/test/gpu_ops_test" CudaPtxTest CudaElementwiseTest CudaMatMulTest CudaPagedAttentionTest \
                 CudaSampleTest CudaEngineTest); do
    attempt "gpu_ops_test.$suite" 40 "$binaries/test/gpu_ops_test" "--gtest_filter=*$suite.*:*$suite/*"
    [ "$status_of_last" -ne 0 ] || continue
    filter=$(failing_tests "$logs/gpu_ops_test.$suite")
    if [ -n "$filter" ] && [ -x "$sanitizer" ] && has_gpu; then
      attempt "memcheck.$suite" 30 "$sanitizer" --tool memcheck --error-exitcode 9 "$binaries/test/gpu_ops_test" \
        "--gtest_filter=$filter"
    fi
  done
}

# The tests that failed, and the one that was running when the program ended, joined by colons; at most 3.
failing_tests() {  # log
  awk '/^\[ RUN      \] / { running = $4 }
       /^\[       OK \] / || /^\[  SKIPPED \] / { running = "" }
       /^\[  FAILED  \] .*\./ { name = $4; sub(/,$/, "", name); if (!seen[name]++) names[++n] = name; running = "" }
       END { if (running != "" && !seen[running]++) names[++n] = running
             for (i = 1; i <= n && i <= 3; ++i) printf "%s%s", (i > 1 ? ":" : ""), names[i] }' "$1"
}

run_group_tests() {
  attempt gpu_same_bytes_test 60 "$binaries/test/gpu_same_bytes_test"
  local name
  # The one that kills ranks comes last: what it leaves may hang.
  for name in $(tests_of "$binaries/test/gpu_processes_test" | awk '/Killed/ { last = last $0 "\n"; next } { print } END { printf "%s", last }'); do
    attempt "gpu_processes_test.${name//\//_}" 25 "$binaries/test/gpu_processes_test" "--gtest_filter=$name"
  done
  attempt nccl_library_test 30 "$binaries/test/nccl_library_test"
  attempt cublas_lt_test 30 "$binaries/test/cublas_lt_test"
  # It has the paths of the machine that built it, and needs no GPU.
  [ -n "$is_prebuilt" ] || attempt cublas_lt_fake_test 30 "$binaries/test/cublas_lt_fake_test"
}

report_skipped() {
  local file
  for file in "$logs"/gpu_*; do
    [ -f "$file" ] || continue
    sed -nE "s/^\[  SKIPPED \] ([0-9]+) tests?, listed below:/skipped \1 tests of ${file##*/}/p" "$file"
  done | awk '{ n += $2 } END { if (n) print "skipped " n " tests" }'
}

# One launch of each kernel that matters: what bounds it.
run_profile() {
  local ncu metrics
  ncu=$(command -v ncu || echo "$cuda/bin/ncu")
  if ! has_gpu; then echo "skipped 1 profile: no GPU"; return; fi
  if ! [ -x "$ncu" ]; then echo "skipped 1 profile: no ncu"; return; fi
  metrics=dram__throughput.avg.pct_of_peak_sustained_elapsed,lts__throughput.avg.pct_of_peak_sustained_elapsed
  metrics+=,sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active,gpu__time_duration.sum
  attempt profile 60 "$ncu" --clock-control none --set full --metrics "$metrics" --launch-skip 20 --launch-count 12 \
    --kernel-name 'regex:(MatMul|DecodeAttention|PrefillAttention)Kernel' --kernel-id '::regex:.*:3' \
    "$binaries/bin/bora-bench-gpu" skinny large decode prefill
}

# The library's kernels are NVIDIA's business. Under a sanitizer a kernel takes 10 to 100 times as long: left out is what
# runs the same kernels as other tests do on more tokens, or does not ask for a GPU. A tool that has found nothing by the end
# of its time has found nothing so far.
sanitized_tests="-MatrixLibraryTest*:CudaEngineTest*:*DrawsFromAWholeVocabulary*"
sanitized_tests+=":*BitsDoNotDependOnChunks*:*BitsDependOnTheRowAndTheWeightAlone*"
run_sanitizers() {
  local sanitizer status
  sanitizer=$(find_sanitizer)
  if ! has_gpu; then echo "skipped 2 sanitizers: no GPU"; return; fi
  if ! [ -x "$sanitizer" ]; then echo "skipped 2 sanitizers: no compute-sanitizer"; return; fi
  local tool
  for tool in memcheck racecheck; do
    run_for "$tool" 80 "$sanitizer" --tool "$tool" --error-exitcode 9 "$binaries/test/gpu_ops_test" --gtest_brief=1 \
      "--gtest_filter=${BORA_SANITIZER_FILTER:-$sanitized_tests}"
    if [ "$status" -eq 124 ] &&
       ! grep -qE '^=+ .*(Invalid|Misaligned|Race|hazard|Program hit)|^\[  FAILED' "$logs/$tool"; then
      echo "incomplete $tool: not all tests ran in its time"
      results+=("incomplete $tool")
    elif [ "$status" -ne 0 ]; then
      failures+=("$tool")
      results+=("FAILED $tool: status $status")
    fi
  done
}

# The clock that the figures were measured at: the median of those in use while the benchmark ran.
run_bench() {
  local sampler=
  if has_gpu; then
    nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader,nounits -lms 500 \
      >"$logs/clocks" 2>/dev/null &
    sampler=$!
  fi
  attempt bora-bench-gpu 90 "$binaries/bin/bora-bench-gpu" skinny decode prefill large operations
  [ -z "$sampler" ] && return
  kill "$sampler" 2>/dev/null || true
  local column=1 name
  for name in "gpu_sm_clock MHz" "gpu_memory_clock MHz" "gpu_power W" "gpu_temperature C"; do
    cut -d, -f"$column" "$logs/clocks" | sort -n |
      awk -v name="${name% *}" -v unit="${name#* }" \
        '{ v[NR] = $1 } END { if (NR) printf "figure %s %s %s p10 %s p90 %s\n", name, v[int((NR + 1) / 2)], unit,
           v[int(NR / 10) + 1], v[NR - int(NR / 10)] }'
    column=$((column + 1))
  done
}

# The value of a figure in the outputs so far; nothing if there is none.
value_of() {  # figure
  awk -v name="$1" '$1 == "figure" && $2 == name { print $3; exit }' "$logs"/* 2>/dev/null || true
}

run_model() {  # cases fast name seconds
  # cases and fast: of bora-bench-gpu-model
  local cases=$1 fast=$2 read gemm
  if [ -z "$(value_of gpu_limit_read)" ]; then attempt limits 30 "$binaries/bin/bora-bench-gpu" limits; fi
  read=$(value_of gpu_limit_read)
  gemm=$(value_of gpu_limit_gemm)
  attempt "bora-bench-gpu-model.$3" "$4" "$binaries/bin/bora-bench-gpu-model" "--cases=$cases" "--fast=$fast" \
    "--read-gb-per-s=${read:-0}" "--tflop-per-s=${gemm:-0}"
}

# What is compared across programs, where both have run: ours over the peer's, more is better.
print_ratios() {
  local name ours peer
  for name in "gpu_generate_512_128_tokens_per_s torch_generate_512_128_tokens_per_s" \
              "gpu_prefill_attention_8k torch_prefill_attention_flash_8k" \
              "gpu_prefill_attention_32k torch_prefill_attention_flash_32k"; do
    ours=$(value_of "${name% *}")
    peer=$(value_of "${name#* }")
    if [ -n "$ours" ] && [ -n "$peer" ]; then
      awk -v ours="$ours" -v peer="$peer" -v name="${name% *}" \
        'BEGIN { printf "figure %s_over_torch %.3f ratio peer %s\n", name, ours / peer, peer }'
    fi
  done
}

run_torch() {
  if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    attempt torch_peer 70 python3 tests/gpu/torch_peer.py
  else
    echo "skipped 1 peer: python3 has no PyTorch that sees a GPU"
  fi
}

# What was built elsewhere and starts here.
find_programs() {
  binaries=${BORA_BINARY_DIR:-}
  is_prebuilt=
  if [ -z "$binaries" ] && "$root/build/gpu-bin/test/gpu_ops_test" --gtest_list_tests >/dev/null 2>&1; then
    binaries=$root/build/gpu-bin
    is_prebuilt=1
    echo "programs of build/gpu-bin"
  fi
}

key_figures="gpu_wgmma_n8_other_bits gpu_wgmma_n128_other_bits gpu_limit_copy gpu_limit_read gpu_limit_l2_read gpu_limit_gemm
 gpu_sm_clock gpu_power"
summary() {
  local line
  {
    for line in "${results[@]}"; do case $line in passed*) ;; *) echo "$line" ;; esac; done | head -n 20
    printf '%s\n' "${results[@]}" | grep -c '^passed' | sed 's/$/ steps passed/'
    cat "$logs"/* 2>/dev/null | awk -v keys="$key_figures" 'BEGIN { split(keys, k); for (i in k) is_key[k[i]] = 1 }
      $1 == "figure" && !seen[$2]++ {
        kind = $2; sub(/^gpu_/, "", kind); sub(/_.*/, "", kind)
        if (is_key[$2] || n[kind]++ < 5) print
      }' | head -n 34
  } | cut -c1-180 | head -n 57
}

find_cuda
step machine
describe_machine
find_programs
if [ -z "$binaries" ]; then step build; build; fi
if wants bench; then step limits; attempt limits 30 "$binaries/bin/bora-bench-gpu" limits wgmma; fi
if wants tests; then step operations; run_operation_tests; fi
if wants bench; then step bench; run_bench; fi
if wants model; then step model; run_model decode:1x1024,decode:32x1024,prefill:8192 prefill:8192 first 60; fi
if wants profile; then step profile; run_profile; fi
if wants tests; then step groups; run_group_tests; report_skipped; fi
if wants torch; then step torch; run_torch; fi
if wants sanitizers; then step sanitizers; run_sanitizers; fi
if wants model; then
  step "rest of model"
  run_model decode:128x1024,decode:1x8192,decode:32x8192,prefill:2048,prefill:32000,generate:512+128,offline:1000+1000 \
    decode:32x1024 rest 110
fi
if wants torch; then print_ratios; fi
step "summary, all of it in $logs"
summary
if [ ${#failures[@]} -gt 0 ]; then
  echo "failed: ${failures[*]}" | cut -c1-400
  exit 1
fi
