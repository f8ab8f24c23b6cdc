// All requests that are in the engine, from their submission to their end: their sequences, the
// texts of their candidates, their deadlines, and what their observers are told.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/engine/engine_stats.h"
#include "coordinator/engine/live_request.h"
#include "coordinator/engine/queue_quota.h"
#include "coordinator/engine/retry_delay.h"
#include "coordinator/scheduler/scheduler.h"
#include "model/text/tokenizer.h"

namespace bora {

// A request on its way into the engine. It has n_candidates places in the queue.
struct Submission {
  uint64_t handle = 0;  // and the n_candidates - 1 handles above it
  RequestSpec spec;
  std::shared_ptr<RequestObserver> observer;
  std::string account;  // of its places in the queue
};

// Owned by the engine thread; no clock of its own. Unknown and ended handles are ignored.
class RequestTable {
 public:
  // All outlive the table. prefix_cache: whether requests may share computed blocks at all.
  RequestTable(const Tokenizer& tokenizer, bool prefix_cache, QueueQuota* quota,
               RetryDelay* retry_delay, EngineStats* stats);

  // Puts the request into the scheduler's queue, unless its first token is predicted to come after
  // its deadline. The scheduler outlives the request: it ends by FailAll at the latest.
  void Submit(Submission submission, Scheduler* scheduler, SteadyTime now);
  // Tells the observer of a submission that it is refused.
  void Refuse(const Submission& submission, ApiError error);
  // Ends a request without a word to its observer.
  void Cancel(uint64_t handle, SteadyTime now);
  // The reader has caught up: the request gets steps again.
  void Resume(uint64_t handle);
  // Ends every request with the error, to whose metadata the number of its tokens is added.
  void FailAll(const ApiError& error, SteadyTime now);
  // Sequences of requests were given a slot.
  void OnAdmitted(absl::Span<const Admission> admissions, SteadyTime now);
  // Takes a step's outcome for one sequence to its request's observer.
  void Deliver(SequenceProgress progress, SteadyTime now);
  // Ends requests whose deadline or time limit has passed, and waiting ones whose first token would
  // come too late even if their prompts were begun now.
  void ExpireDeadlines(SteadyTime now);

  bool empty() const { return requests_.empty(); }

 private:
  SequenceSpec MakeSequence(const LiveRequest& request, int32_t candidate) const;
  // Puts all candidates except the first into the queue.
  void Fork(LiveRequest* request);
  void SetHeld(const LiveRequest& request, bool held);
  // Decides whether the token ends the candidate; fills the delta's text and finish.
  void AppendToken(LiveRequest* request, const SampledToken& token, SteadyTime now,
                   OutputDelta* delta);
  void NoteToken(const LiveRequest& request, int32_t candidate_idx, SteadyTime now,
                 LiveRequest::Candidate* candidate);
  // Notes the end of the delta's candidate, and in the delta whether it is the request's last.
  void EndCandidate(LiveRequest* request, OutputDelta* delta);
  // Ends all candidates with what they have.
  void EndAtTimeLimit(LiveRequest* request, SteadyTime now);
  void Fail(uint64_t handle, ApiError error, SteadyTime now);
  // Takes the request out of the scheduler, the queue and the table.
  void Forget(uint64_t handle, SteadyTime now);

  const Tokenizer& tokenizer_;
  const bool prefix_cache_;
  QueueQuota* const quota_;
  RetryDelay* const retry_delay_;
  EngineStats* const stats_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<LiveRequest>> requests_;
  absl::flat_hash_map<uint64_t, LiveRequest*> sequences_;  // of all candidates, by their handles
};

}  // namespace bora
