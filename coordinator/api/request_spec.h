// A request as the engine sees it, and the output that the engine gives to the request's observer.
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

// A validated request: every field is within the limits of the model and of this server.
struct RequestSpec {
  std::string request_id;
  SharedTokens prompt_tokens;  // token ids, at least 1
  // The seed is always set. stop_token_ids has all ids that end generation; the end-of-sequence ids
  // are among them unless the request ignores them.
  SamplingParams sampling;
  // Number of completions of the prompt, >= 1. They are generated independently of each other;
  // candidate i samples with the seed sampling.seed + i.
  int32_t n_candidates = 1;
  // Tokens of each candidate, at most; prompt_tokens + max_tokens <= max_model_len.
  int32_t max_tokens = 0;
  // The request did not set max_tokens, and the context has less room than the default: a candidate
  // that reaches max_tokens ends with kContextLength instead of kMaxTokens.
  bool context_limited = false;
  std::vector<std::string> stop;        // stop sequences, UTF-8, none empty
  bool include_stop_in_output = false;  // the text ends after the stop sequence, else before it
  // Whether the request shares computed KV blocks with other requests of the same cache_salt.
  bool prefix_cache = true;
  std::string cache_salt;
  Priority priority = Priority::kStandard;
  // Requests of one tenant share that tenant's part of the server, see
  // coordinator/scheduler/fair_queue.h.
  std::string tenant;
  SteadyTime arrival;  // when the call reached this process
  // The call's deadline: a request that has not ended by then fails.
  SteadyTime deadline = SteadyTime::InfiniteFuture();
  // A request that has not ended by then ends successfully with what it has (kTimeLimit).
  SteadyTime time_limit = SteadyTime::InfiniteFuture();
};

// Why a candidate ended.
enum class FinishKind { kStopToken, kStopSequence, kMaxTokens, kContextLength, kTimeLimit };

// How a request spent its time, by the coordinator's clock.
struct RequestTiming {
  absl::Duration queue;        // from arrival to the first step
  absl::Duration prefill;      // from the first step to the first token of any candidate
  absl::Duration decode;       // from that token to the last token of any candidate
  absl::Duration first_token;  // from arrival to the first token: queue + prefill
};

// How a candidate ended.
struct FinishInfo {
  FinishKind kind = FinishKind::kMaxTokens;
  int32_t stop_token_id = -1;  // the id that ended it, for kStopToken
  std::string stop_sequence;   // the sequence that ended it, for kStopSequence
  uint64_t seed = 0;           // the candidate's
  int32_t n_prompt_tokens = 0;
  int32_t n_output_tokens = 0;         // of the candidate
  int32_t n_total_output_tokens = 0;   // of all candidates until now
  int32_t n_cached_prompt_tokens = 0;  // prompt tokens that the prefix cache had
  RequestTiming timing;
};

// The output of one candidate since the candidate's previous delta.
struct OutputDelta {
  int32_t candidate = 0;  // [0, n_candidates)
  // New text, valid UTF-8. Text that may still turn out to be part of a stop sequence is held back.
  std::string text;
  std::vector<SampledToken> tokens;  // new generated tokens, in order
  // Log-probabilities of prompt tokens, in order over all deltas: positions 1, 2, ... of the
  // prompt.
  std::vector<SampledToken> prompt_logprobs;
  std::optional<FinishInfo> finish;  // set in the candidate's last delta
  bool last = false;                 // whether this is the last delta of the request
};

// Receives the output of one request. The engine thread calls it after Submit has admitted the
// request; the delta with `last`, or OnError, is the last call. Implementations only store the data
// and return: they must not block or call back into the engine.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;

  // Takes the delta. Returns false if the client reads too slowly and its buffer is full: the
  // engine then plans no further step for this request until Generator::Resume. A step that is
  // under way still delivers its token: one at most.
  virtual bool OnDelta(OutputDelta delta) = 0;
  // The request has failed; nothing more comes.
  virtual void OnError(ApiError error) = 0;
};

}  // namespace bora
