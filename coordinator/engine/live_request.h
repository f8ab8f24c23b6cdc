// The engine's state of one request.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/engine/completion_text.h"
#include "coordinator/scheduler/scheduler.h"
#include "model/text/tokenizer.h"

namespace bora {

// A request from its submission to its end. In the scheduler, candidate i is the sequence with the
// handle `handle` + i. Owned by the engine thread.
struct LiveRequest {
  struct Candidate {
    CompletionText text;
    int32_t n_output_tokens = 0;
    SteadyTime first_token = SteadyTime::InfiniteFuture();  // when it came
    SteadyTime last_token;  // when the latest one came; undefined without a token
    bool ended = false;
  };

  LiveRequest(uint64_t request_handle, RequestSpec request_spec,
              std::shared_ptr<RequestObserver> request_observer, const Tokenizer& tokenizer)
      : handle(request_handle),
        spec(std::move(request_spec)),
        observer(std::move(request_observer)),
        n_queued(spec.n_candidates),
        candidates(spec.n_candidates, Candidate{CompletionText(
                                          tokenizer, spec.prompt_tokens, spec.stop,
                                          spec.include_stop_in_output, spec.sampling.min_tokens)}) {
  }

  // Generated tokens of all candidates.
  int32_t n_output_tokens() const {
    int32_t n = 0;
    for (const Candidate& candidate : candidates) n += candidate.n_output_tokens;
    return n;
  }

  const uint64_t handle;
  const RequestSpec spec;
  const std::shared_ptr<RequestObserver> observer;
  Scheduler* scheduler = nullptr;  // of the group that runs the request; outlives the request
  std::string account;             // QueueQuota's account that its places in the queue count for
  int32_t n_queued;                // candidates that have not had a slot yet
  std::vector<Candidate> candidates;
  int32_t n_ended = 0;                 // candidates that have ended
  int32_t n_cached_prompt_tokens = 0;  // prompt tokens that the prefix cache had
  // When a candidate first had a slot.
  SteadyTime first_step = SteadyTime::InfiniteFuture();
  bool running = false;  // a candidate has, or has had, a slot
  bool forked =
      false;  // the scheduler has the sequences of all candidates, not of candidate 0 only
};

}  // namespace bora
