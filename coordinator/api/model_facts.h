// Facts about the served model and this server that do not change while the process runs. Requests
// are checked against them, and ModelService reports them.
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
  int32_t context_length = 0;          // tokens of prompt and completion together, > 1
  std::vector<int32_t> eos_token_ids;  // ids that end a completion; ascending
  SamplingDefaults sampling_defaults;  // for the parameters that a request leaves unset
  std::string dtype;                   // name of the weights' type, as in --dtype
  std::string quantization;            // name of the weights' format; empty: not quantized
  int32_t n_layers = 0;
  int32_t dim = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
};

// The flags of the same names in coordinator_flags.h have their defaults and ranges.
struct ServerFacts {
  std::string version;
  std::string git_commit = "unknown";
  int32_t tensor_parallel_size = 0;
  int32_t pipeline_parallel_size = 0;
  int32_t block_size = 0;  // tokens of a KV block
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  int32_t max_num_queued_reqs = 0;
  std::string generation_config;  // ServerFlags::generation_config
};

}  // namespace bora
