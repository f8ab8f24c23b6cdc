# The worker protocol needs protobuf.
if(BORA_WITH_GRPC)
  bora_fuzzer(step_plan_fuzz SRCS step_plan_fuzz.cc DEPS bora_worker_codec bora_step
              CORPUS ${CMAKE_CURRENT_SOURCE_DIR}/corpus/step_plan)
  bora_fuzzer(worker_messages_fuzz SRCS worker_messages_fuzz.cc DEPS bora_worker_codec bora_cluster bora_step
              CORPUS ${CMAKE_CURRENT_SOURCE_DIR}/corpus/worker_messages)
endif()
