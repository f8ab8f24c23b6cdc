// What the engine counts. Each event has a name; totals grow from the engine's start.
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
  // Time passed in which a plan was in flight, the coordinator's own work included.
  void WasBusy(absl::Duration time) { totals_.busy_total += time; }
  // A plan was sent with this many prompt tokens.
  void PlannedPromptTokens(int64_t n_tokens) { totals_.n_prompt_tokens_total += n_tokens; }
  // A step is done; stage_us of its result: how long each stage computed.
  void StepDone(const StepResult& result) {
    if (totals_.stage_compute_total.size() < result.stage_us.size()) {
      totals_.stage_compute_total.resize(result.stage_us.size());
    }
    for (size_t stage = 0; stage < result.stage_us.size(); ++stage) {
      totals_.stage_compute_total[stage] += absl::Microseconds(result.stage_us[stage]);
    }
  }
  // The step was one of requests, not of a calibration.
  void ServedStep() { ++totals_.n_steps_total; }
  // A request was given a slot for the first time; n_tokens of its prompt need not be computed.
  void FoundInCache(int64_t n_tokens) { totals_.n_cached_prompt_tokens_total += n_tokens; }
  // A completion has its next token. The first one of a request came `latency` after its arrival.
  void OutputToken() { ++totals_.n_output_tokens_total; }
  void FirstToken(absl::Duration latency) { totals_.time_to_first_token.Add(latency); }
  void TokenGap(absl::Duration gap) { totals_.token_gap.Add(gap); }
  // A request has ended, in whatever way.
  void RequestEnded() { ++totals_.n_finished_requests_total; }
  // A group is lost that has preempted this many sequences.
  void GroupLost(int64_t n_preemptions) { totals_.n_preemptions_total += n_preemptions; }

  const LoadSnapshot& totals() const { return totals_; }

 private:
  LoadSnapshot totals_;
};

}  // namespace bora
