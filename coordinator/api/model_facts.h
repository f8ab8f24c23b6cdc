// What is fixed about the served model and this server from start to end: what requests are checked
// against and ModelService reports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/api/api_limits.h"
#include "model/generation_config.h"
#include "model/step/sampling_params.h"

namespace bora {

struct ModelFacts {
  std::string name;                    // without "models/"
  int32_t context_length = 0;          // > 1
  std::vector<int32_t> eos_token_ids;  // ascending
  SamplingDefaults sampling_defaults;  // for what a request leaves unset
  std::string dtype;
  std::string quantization;  // empty: none
  int32_t n_layers = 0;
  int32_t dim = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
};

struct ServerFacts {
  std::string version;
  std::string git_commit = "unknown";
  int32_t tensor_parallel_size = 0;
  int32_t pipeline_parallel_size = 0;
  int32_t block_size = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  int32_t max_num_queued_reqs = 0;
  std::string generation_config;  // ServerFlags::generation_config
};

}  // namespace bora
