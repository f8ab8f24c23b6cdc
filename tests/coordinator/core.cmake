# The coordinator's core, without RPC.
bora_test(
  scheduler_test
  SRCS block_pool_test.cc calibration_test.cc fair_queue_test.cc sampled_token_check_test.cc scheduler_pipeline_test.cc scheduler_random_test.cc scheduler_test.cc step_cost_model_test.cc transcript.cc
  DEPS bora_scheduler
  LABEL unit)
bora_test(cluster_test SRCS cluster_test.cc DEPS bora_cluster LABEL unit)
bora_test(coordinator_engine_test
  SRCS engine_liveness_test.cc engine_state_test.cc engine_test.cc latency_histogram_test.cc queue_places_test.cc
  DEPS bora_engine LABEL unit TIMEOUT 300)
if(BORA_WITH_GRPC)
  bora_test(worker_server_test SRCS worker_server_test.cc DEPS bora_worker_service LABEL unit)
endif()
