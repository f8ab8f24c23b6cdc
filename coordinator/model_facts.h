// What is fixed about the served model and this server from start to end: limits of requests, and
// what ModelService reports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/generation_config.h"
#include "model/sampling_params.h"

namespace bora {

// Limits of the public API that do not depend on the model.
inline constexpr int32_t kMaxStopSequences = 16;
inline constexpr int32_t kMaxStopSequenceCodePoints = 256;
inline constexpr int32_t kMaxBatchInputs = 128;
inline constexpr int32_t kMaxRequestIdBytes = 64;
inline constexpr int32_t kMaxCacheSaltBytes = 64;
inline constexpr int32_t kMaxTenantBytes = 64;
inline constexpr int32_t kMaxCandidates = 16;
// StopOptions.max_tokens of a request that says nothing, for a model that says nothing either.
inline constexpr int32_t kDefaultMaxTokens = 256;
// gRPC's default for what a client receives; requests are held to the same.
inline constexpr int32_t kMaxMessageBytes = 4 << 20;
// Of a call's metadata, as HTTP/2 counts it: names, values and 32 bytes each. Room for a large
// token or a browser's cookies.
inline constexpr int32_t kMaxMetadataBytes = 16 << 10;
// Streams of one connection; a client that opens more waits for one to end.
inline constexpr int32_t kMaxConnectionStreams = 256;
// After this, and with this grace for calls that run, a connection is closed so that balancers can
// move it; the grace is above the longest stream.
inline constexpr int32_t kMaxConnectionAgeS = 30 * 60;
inline constexpr int32_t kMaxConnectionGraceS = 10 * 60;
// Without a call.
inline constexpr int32_t kMaxConnectionIdleS = 5 * 60;
// Between two pings of a client; the third that is early ends the connection.
inline constexpr int32_t kMinPingIntervalS = 10;
// A quarter of the largest message. 32k tokens of English are about 130 kB.
inline constexpr int32_t kMaxPromptBytes = 1 << 20;
// Rule (e) of GenerateStream.
inline constexpr int32_t kMaxStreamMessageBytes = 64 << 10;

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
