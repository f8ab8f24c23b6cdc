// The engine's counters. There is one function for each event that is counted; the totals grow from
// the engine's start.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "coordinator/api/server_snapshot.h"
#include "model/step/step.h"

namespace bora {

// Owned by the engine thread.
class EngineStats {
 public:
  // This much time has passed in which a plan was in flight. The coordinator's own work in that
  // time is included.
  void WasBusy(absl::Duration time) { totals_.busy_total += time; }
  // A plan with this many prompt tokens was made.
  void PlannedPromptTokens(int64_t n_tokens) { totals_.n_prompt_tokens_total += n_tokens; }
  // A step is done. Adds up how long each stage computed (stage_us, microseconds).
  void StepDone(const StepResult& result) {
    if (totals_.stage_compute_total.size() < result.stage_us.size()) {
      totals_.stage_compute_total.resize(result.stage_us.size());
    }
    for (size_t stage = 0; stage < result.stage_us.size(); ++stage) {
      totals_.stage_compute_total[stage] += absl::Microseconds(result.stage_us[stage]);
    }
  }
  // The step that is done was one of requests, not of a calibration.
  void ServedStep() { ++totals_.n_steps_total; }
  // A request has a slot for the first time; the prefix cache has n_tokens tokens of its prompt,
  // which need not be computed.
  void FoundInCache(int64_t n_tokens) { totals_.n_cached_prompt_tokens_total += n_tokens; }
  // A candidate has its next token.
  void OutputToken() { ++totals_.n_output_tokens_total; }
  // Candidate 0 of a request has its first token, `latency` after the request's arrival.
  void FirstToken(absl::Duration latency) { totals_.time_to_first_token.Add(latency); }
  // A candidate has a token `gap` after its previous one.
  void TokenGap(absl::Duration gap) { totals_.token_gap.Add(gap); }
  // A request has ended: with success, with an error or by cancellation.
  void RequestEnded() { ++totals_.n_finished_requests_total; }
  // A group was lost whose scheduler has preempted sequences this many times. Until then the
  // scheduler's own count is added to the total in snapshots.
  void GroupLost(int64_t n_preemptions) { totals_.n_preemptions_total += n_preemptions; }

  // The counters; the fields about the present load are not filled in.
  const LoadSnapshot& totals() const { return totals_; }

 private:
  LoadSnapshot totals_;
};

}  // namespace bora
