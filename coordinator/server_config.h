// From flags and a model directory to everything the coordinator needs: which model, divided how,
// within which limits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/model_facts.h"
#include "coordinator/engine/engine.h"
#include "model/config.h"
#include "model/text/tokenizer.h"

namespace bora {

// The flags that decide about model and group, with their defaults; coordinator_flags.cc names them
// and checks their ranges.
struct ServerFlags {
  std::string model;
  std::string served_model_name;  // empty: the directory's name
  std::string tokenizer;          // empty: tokenizer.model in the model's directory
  // Where a request's unset sampling fields come from: auto, the model directory's
  // generation_config.json; none (or vllm, as it is called there), the API's own defaults; or
  // another directory with such a file.
  std::string generation_config = "auto";
  std::string load_format = "auto";
  std::string dtype = "auto";
  std::string quantization = "none";
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  std::vector<int64_t> layers_per_stage;  // empty: balanced
  int32_t max_model_len = 0;  // 0: the model's context, or its sliding window if that is shorter
  int32_t max_num_seqs = 64;
  int32_t max_num_batched_tokens = 128;
  int32_t max_num_queued_reqs = 1024;
  int64_t kv_cache_memory_bytes = 0;  // 0: chosen
  bool enable_prefix_caching = true;
  bool async_scheduling = true;
  std::vector<std::string> tenant_weights;  // name=weight
  int32_t step_time_budget_ms = 100;
  absl::Duration heartbeat_timeout = absl::Seconds(5);
  uint64_t seed = 0;
  std::string worker_credential;
};

// Immutable after construction.
struct ServerConfig {
  ModelConfig model;
  std::unique_ptr<const Tokenizer> tokenizer;
  ModelFacts model_facts;
  ServerFacts server_facts;
  EngineOptions engine;
};

// Reads the model's config, tokenizer and, where its weights are here, their fingerprint, and
// checks that all of it fits together. Errors name the flag or file, the value and the limit; each
// has a line of the message.
absl::StatusOr<ServerConfig> MakeServerConfig(const ServerFlags& flags);

// What of the above can be said when some flags are wrong: whether model, tokenizer and weights can
// be read. OK without a model.
absl::Status CheckModelFiles(const ServerFlags& flags);

}  // namespace bora
