# The worker protocol needs protobuf.
if(BORA_WITH_GRPC)
  bora_fuzzer(step_plan_fuzz SRCS step_plan_fuzz.cc DEPS bora_worker_codec bora_step
              CORPUS ${CMAKE_CURRENT_SOURCE_DIR}/corpus/step_plan)
endif()
