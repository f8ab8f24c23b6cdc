// A request as the engine sees it, and what the engine tells the one who waits for it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/api_error.h"
#include "coordinator/scheduler/priority.h"
#include "coordinator/scheduler/shared_tokens.h"
#include "model/step/sampling_params.h"
#include "model/step/step.h"

namespace bora {

// A validated request: every field is within the model's limits.
struct RequestSpec {
  std::string request_id;
  SharedTokens prompt_tokens;  // at least 1
  // seed is set; stop_token_ids holds what ends generation, the end-of-sequence ids included unless
  // they are ignored.
  SamplingParams sampling;
  // Completions of the prompt, each of its own; candidate i has sampling.seed + i. >= 1
  int32_t n_candidates = 1;
  int32_t max_tokens = 0;  // of each; prompt_tokens + max_tokens <= max_model_len
  bool context_limited =
      false;  // max_tokens is what the context leaves: then FINISH_REASON_CONTEXT_LENGTH
  std::vector<std::string> stop;  // stop sequences
  bool include_stop_in_output = false;
  bool prefix_cache = true;  // share computed blocks with others of the same salt
  std::string cache_salt;
  Priority priority = Priority::kStandard;
  std::string tenant;  // who shares with whom, see coordinator/scheduler/fair_queue.h
  SteadyTime arrival;
  SteadyTime deadline = SteadyTime::InfiniteFuture();    // the call's
  SteadyTime time_limit = SteadyTime::InfiniteFuture();  // a success when it passes
};

enum class FinishKind { kStopToken, kStopSequence, kMaxTokens, kContextLength, kTimeLimit };

// Where the time of a request went. Durations between times on the coordinator's clock.
struct RequestTiming {
  absl::Duration queue;
  absl::Duration prefill;
  absl::Duration decode;
  absl::Duration first_token;
};

struct FinishInfo {
  FinishKind kind = FinishKind::kMaxTokens;
  int32_t stop_token_id = -1;  // kStopToken
  std::string stop_sequence;   // kStopSequence
  uint64_t seed = 0;
  int32_t n_prompt_tokens = 0;
  int32_t n_output_tokens = 0;        // of the candidate
  int32_t n_total_output_tokens = 0;  // of all candidates until now
  int32_t n_cached_prompt_tokens = 0;
  RequestTiming timing;
};

// What is new since the last one.
struct OutputDelta {
  int32_t candidate = 0;
  std::string text;                  // valid UTF-8; nothing that may yet be part of a stop sequence
  std::vector<SampledToken> tokens;  // generated, in order
  std::vector<SampledToken> prompt_logprobs;  // for positions 1, 2, ... of the prompt, in order
  std::optional<FinishInfo> finish;           // in the candidate's last one
  bool last = false;                          // of the request
};

// Whoever waits for a request. The engine thread calls it, from Submit's success until one of: the
// last delta, or OnError; nothing after that. Implementations only take the data over and
// return: they must not block or call back into the engine.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;

  // Takes the delta. False: the reader is slow and its buffer full: the engine plans no further
  // step for this request until Engine::Resume. What is under way still comes: one token at most.
  virtual bool OnDelta(OutputDelta delta) = 0;
  virtual void OnError(ApiError error) = 0;
};

}  // namespace bora
