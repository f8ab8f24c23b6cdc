# A group of ranks inside one process, for property tests here and with the scheduler.
bora_library(
  bora_local_group
  SRCS local_group.cc plan_builder.cc workload.cc
  DEPS bora_rank)

# Sixteen ranks on two busy cores under TSan are slow: 150 s at a load of 6, and the half of them without EngineKvHeadsTest
# 400 s at a load of 11.
bora_test(engine_test SRCS engine_test.cc DEPS bora_local_group LABEL property TIMEOUT 1200)
bora_test(rank_test SRCS aligned_buffer_test.cc cuda_step_test.cc layout_plan_test.cc rank_test.cc rank_weights_test.cc step_inputs_test.cc weight_digest_test.cc DEPS bora_local_group
          LABEL unit TIMEOUT 180)
bora_test(sim_rank_test
          SRCS host_memory_test.cc load_progress_log_test.cc sim_cost_test.cc sim_rank_loader_test.cc sim_rank_test.cc
          DEPS bora_local_group bora_agent
          LABEL unit)
bora_test(reference_model_test SRCS reference_model_test.cc DEPS bora_local_group bora_reference
          LABEL unit)
