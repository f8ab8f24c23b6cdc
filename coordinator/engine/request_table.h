// All requests of the engine, from their submission to their end. The table adds their sequences to
// the scheduler, turns tokens into text, watches deadlines, and calls the requests' observers.
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

// A request on its way into the engine. QueueQuota counts it as n_candidates waiting sequences.
struct Submission {
  uint64_t handle = 0;  // the request also owns the n_candidates - 1 handles above this one
  RequestSpec spec;
  std::shared_ptr<RequestObserver> observer;
  std::string account;  // the quota's account that counts the sequences
};

// Owned by the engine thread; no clock of its own. Unknown and ended handles are ignored.
class RequestTable {
 public:
  // All arguments outlive the table. prefix_cache: whether requests may share computed KV blocks at
  // all.
  RequestTable(const Tokenizer& tokenizer, bool prefix_cache, QueueQuota* quota,
               RetryDelay* retry_delay, EngineStats* stats);

  // Puts the request into the scheduler's queue. If its first token is predicted to come after its
  // deadline, the request fails instead with DEADLINE_IN_QUEUE. REQUIRES: the scheduler lives until
  // the request has ended; FailAll ends it at the latest.
  void Submit(Submission submission, Scheduler* scheduler, SteadyTime now);
  // Fails a submission that cannot be put into a queue.
  void Refuse(const Submission& submission, ApiError error);
  // Ends a request without calling its observer.
  void Cancel(uint64_t handle, SteadyTime now);
  // Lets a request have steps again after its observer's OnDelta has returned false.
  void Resume(uint64_t handle);
  // Ends every request with the error. Each request's outputTokenCount is added to the metadata.
  void FailAll(const ApiError& error, SteadyTime now);
  // Notes that sequences of requests were given a slot: they do not wait any more.
  void OnAdmitted(absl::Span<const Admission> admissions, SteadyTime now);
  // Passes the outcome of a step for one sequence to its request's observer, as a delta; ends the
  // candidate, and the request with its last candidate, if this was their last token.
  void Deliver(SequenceProgress progress, SteadyTime now);
  // Ends requests whose deadline or time limit has passed. Also fails waiting requests whose first
  // token would come after their deadline even if their prompts were begun now.
  void ExpireDeadlines(SteadyTime now);

  bool empty() const { return requests_.empty(); }

 private:
  // The scheduler's form of a candidate.
  SequenceSpec MakeSequence(const LiveRequest& request, int32_t candidate) const;
  // Adds all candidates except candidate 0 to the scheduler. Done after the first token of
  // candidate 0, so that the prompt is computed once.
  void Fork(LiveRequest* request);
  // While `held`, no candidate of the request gets steps.
  void SetHeld(const LiveRequest& request, bool held);
  // Fills the delta's text with the text that the token adds, and its finish if the token ends the
  // candidate.
  void AppendToken(LiveRequest* request, const SampledToken& token, SteadyTime now,
                   OutputDelta* delta);
  // Counts the candidate's next token in the candidate and in the statistics.
  void NoteToken(const LiveRequest& request, int32_t candidate_idx, SteadyTime now,
                 LiveRequest::Candidate* candidate);
  // Notes the end of the delta's candidate, and sets the delta's `last` if it was the request's
  // last candidate.
  void EndCandidate(LiveRequest* request, OutputDelta* delta);
  // Ends all candidates successfully with the text that they have.
  void EndAtTimeLimit(LiveRequest* request, SteadyTime now);
  // Calls the observer's OnError and forgets the request.
  void Fail(uint64_t handle, ApiError error, SteadyTime now);
  // Removes the request from the scheduler, the quota and the table, and counts its end.
  void Forget(uint64_t handle, SteadyTime now);

  const Tokenizer& tokenizer_;
  const bool prefix_cache_;
  QueueQuota* const quota_;
  RetryDelay* const retry_delay_;
  EngineStats* const stats_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<LiveRequest>> requests_;
  // The request of each candidate, by the candidate's handle.
  absl::flat_hash_map<uint64_t, LiveRequest*> sequences_;
};

}  // namespace bora
