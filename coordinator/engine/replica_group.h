// One group of workers at work: from the moment it has formed until it is lost it has a scheduler,
// is calibrated, and gets plans as early as it has use for them.
//
// The engine has one replica group; several would each have their workers, scheduler and cost
// model, and share the requests.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/server_snapshot.h"
#include "coordinator/cluster/cluster.h"
#include "coordinator/engine/calibration.h"
#include "coordinator/engine/engine_stats.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/scheduler/step_cost_model.h"
#include "model/step/step.h"

namespace bora {

struct ReplicaGroupOptions {
  // > 0, by name; tenants that are not named have 1.
  absl::flat_hash_map<std::string, double> tenant_weights;
  // Before it serves, the group makes steps for about this long, to learn what they take. 0: it
  // learns from requests alone.
  absl::Duration calibration_budget;
  bool run_ahead = true;            // plan before the last result is back
  absl::Duration step_time_budget;  // of steps with decode rows; 0: no limit
};

// Owned by the engine thread; no clock of its own.
class ReplicaGroup {
 public:
  // `cluster` and `stats` outlive the group.
  ReplicaGroup(ReplicaGroupOptions options, Cluster* cluster, EngineStats* stats);

  // The workers serve together from now on. Begins the calibration unless the cost model of the
  // epoch before is known.
  void OnFormed(const GroupFormed& formed, SteadyTime now);
  // The workers are lost. Returns the scheduler, whose sequences the caller has to end; the cost
  // model is kept for the next epoch. Null if the group was not formed.
  std::unique_ptr<Scheduler> OnLost();
  // Takes the result of the oldest plan in flight; what it means for requests. An error: the result
  // does not fit the plan.
  absl::StatusOr<std::vector<SequenceProgress>> OnStepDone(StepResult result, SteadyTime now);

  // Plans and sends steps as long as the workers have use for them, and returns the sequences of
  // requests that were given a slot.
  std::vector<Admission> PlanSteps(SteadyTime now);
  // When PlanSteps should be called if nothing happens before.
  SteadyTime next_plan() const { return next_plan_; }

  // Formed, and not calibrating: requests may be added to the scheduler.
  bool takes_requests() const { return scheduler_ != nullptr && !calibration_.has_value(); }
  // REQUIRES: takes_requests().
  Scheduler& scheduler() { return *scheduler_; }
  bool has_steps_in_flight() const {
    return scheduler_ != nullptr && scheduler_->n_in_flight() > 0;
  }
  // The time that the oldest plan in flight should take through all stages; zero if it is unknown.
  absl::Duration PredictedStep() const;
  // The time until a waiting sequence leaves the queue, so that another may enter; zero if unknown.
  absl::Duration PredictedVacancy() const;
  void FillSnapshot(ServerSnapshot* snapshot) const;

 private:
  // Begins the next round of the calibration, or ends it.
  void Calibrate(SteadyTime now);
  // Takes what belongs to the calibration out of a step's progress.
  void TakeCalibrationProgress(std::vector<SequenceProgress>* progress, SteadyTime now);
  // Limits what the workers say of the oldest plan's time to what can be: no stage took longer than
  // the coordinator has waited since it sent the plan.
  void LimitStageTimes(StepResult* result, SteadyTime now);
  // When the next plan should be made: the stages have a plan each, and the next is due shortly
  // before the first of them is free. InfinitePast: now.
  SteadyTime NextPlanDue() const;

  const ReplicaGroupOptions options_;
  Cluster* const cluster_;
  EngineStats* const stats_;

  std::unique_ptr<Scheduler> scheduler_;  // of the current epoch; null while there is none
  std::optional<StepCostModel> learnt_cost_model_;  // of the last epoch

  std::optional<Calibration> calibration_;  // under way
  SteadyTime calibration_begin_;
  absl::flat_hash_map<uint64_t, int32_t> calibrating_;  // tokens that its sequences lack, by handle
  // The handle of the next calibration sequence; far above the handles of requests.
  uint64_t next_calibration_handle_ = uint64_t{1} << 62;

  std::deque<SteadyTime> plan_times_;  // when each plan in flight was sent, oldest first
  SteadyTime oldest_plan_begin_;       // when the oldest was sent, or became the oldest
  SteadyTime next_plan_ = SteadyTime::InfiniteFuture();
};

}  // namespace bora
