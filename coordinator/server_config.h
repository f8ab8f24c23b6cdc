// Turns flags and a model directory into everything that the coordinator needs: the model, its
// division over workers, and the limits.
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

// The flags about model, group and requests, with their defaults. coordinator_flags.cc names the
// flags and checks their ranges.
struct ServerFlags {
  std::string model;              // the model directory
  std::string served_model_name;  // empty: the directory's name
  std::string tokenizer;  // path of a SentencePiece file; empty: tokenizer.model of the model
  // Where the values of a request's unset sampling parameters come from. "auto":
  // generation_config.json in the model directory; "none" (or "vllm", the name of that choice in
  // vLLM): the API's own defaults; any other value: a directory with a generation_config.json.
  std::string generation_config = "auto";
  std::string load_format = "auto";   // "auto": a checkpoint; "dummy": random weights from `seed`
  std::string dtype = "auto";         // type of the weights; "auto": as the checkpoint has it
  std::string quantization = "none";  // format that workers keep their matrices in
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  std::vector<int64_t> layers_per_stage;  // [pipeline_parallel_size]; empty: balanced
  // Tokens of prompt and completion together, at most. 0: the model's context, or its sliding
  // window if that is shorter.
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 64;             // sequences that run at the same time
  int32_t max_num_batched_tokens = 128;  // tokens of one step
  int32_t max_num_queued_reqs = 1024;    // sequences that wait for a slot
  int64_t kv_cache_memory_bytes = 0;  // of each worker; 0: KvCacheBytes in server_config.cc chooses
  bool enable_prefix_caching = true;
  bool async_scheduling = true;             // plan a step before the last result is back
  std::vector<std::string> tenant_weights;  // "NAME=WEIGHT"
  int32_t step_time_budget_ms = 100;        // time of a step with decode rows; 0: no limit
  absl::Duration heartbeat_timeout = absl::Seconds(5);  // silence after which a worker is lost
  uint64_t seed = 0;                                    // of dummy weights
  std::string worker_credential;  // the secret that workers must know; empty: none
};

// Everything that the coordinator's parts are constructed from. Immutable after construction.
struct ServerConfig {
  ModelConfig model;
  std::unique_ptr<const Tokenizer> tokenizer;
  ModelFacts model_facts;
  ServerFacts server_facts;
  EngineOptions engine;
};

// Reads the model's config, tokenizer and, if its weights are on this machine, their fingerprint,
// and checks that flags and files fit together. Several errors are reported together, each in a
// line of its own that names the flag or file, the value and the limit.
absl::StatusOr<ServerConfig> MakeServerConfig(const ServerFlags& flags);

// The part of MakeServerConfig's checks that is possible although other flags are wrong: whether
// model, tokenizer and weights can be read. OK if flags.model is empty.
absl::Status CheckModelFiles(const ServerFlags& flags);

}  // namespace bora
