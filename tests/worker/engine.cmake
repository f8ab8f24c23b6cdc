# A group of ranks inside one process, for property tests here and with the scheduler.
bora_library(
  bora_local_group
  SRCS local_group.cc plan_builder.cc workload.cc
  DEPS bora_rank)

bora_test(engine_test SRCS engine_test.cc DEPS bora_local_group LABEL property TIMEOUT 300)
