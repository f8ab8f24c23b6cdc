// One group of workers, seen by the engine. From the moment when the group has formed until it is
// lost, it has a scheduler; it is calibrated first and then gets plans, each as early as the
// workers need it.
//
// The engine has one replica group. Several groups would each have their own workers, scheduler and
// cost model, and share the requests.
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
  // Weights by the tenants' names, > 0; other tenants have the weight 1.
  absl::flat_hash_map<std::string, double> tenant_weights;
  // For about this long a new group runs calibration steps before it serves, so that the cost model
  // learns their times. 0: the model learns from requests alone.
  absl::Duration calibration_budget;
  bool run_ahead = true;  // plan the next step before the last result is back
  absl::Duration
      step_time_budget;  // predicted time of a step with decode rows, at most; 0: no limit
};

// Owned by the engine thread; no clock of its own.
class ReplicaGroup {
 public:
  // `cluster` and `stats` outlive the group.
  ReplicaGroup(ReplicaGroupOptions options, Cluster* cluster, EngineStats* stats);

  // The group has formed: makes a scheduler for its epoch. Begins the calibration unless the cost
  // model of an earlier epoch is known.
  void OnFormed(const GroupFormed& formed, SteadyTime now);
  // The group is lost. Returns its scheduler, which the requests refer to until the caller has
  // ended them; null if the group had not formed. The cost model is kept for the next epoch if the
  // calibration was complete.
  std::unique_ptr<Scheduler> OnLost();
  // Takes the result of the oldest plan in flight, and returns the progress of each request's
  // sequence. An error if the result does not fit the plan. REQUIRES: the group has formed.
  absl::StatusOr<std::vector<SequenceProgress>> OnStepDone(StepResult result, SteadyTime now);

  // Plans steps and sends them to the workers, as many as the workers need now. Returns the
  // sequences of requests that were given a slot.
  std::vector<Admission> PlanSteps(SteadyTime now);
  // When PlanSteps should be called next if no event comes before; infinite if only an event can
  // make a plan possible.
  SteadyTime next_plan() const { return next_plan_; }

  // Whether requests may be added to the scheduler: the group has formed and is calibrated.
  bool takes_requests() const { return scheduler_ != nullptr && !calibration_.has_value(); }
  // REQUIRES: takes_requests().
  Scheduler& scheduler() { return *scheduler_; }
  bool has_steps_in_flight() const {
    return scheduler_ != nullptr && scheduler_->n_in_flight() > 0;
  }
  // Predicted time of the oldest plan in flight from the first stage to the last; zero if unknown.
  absl::Duration PredictedStep() const;
  // Predicted time until the next waiting sequence gets a slot, which makes room in the queue; zero
  // if unknown.
  absl::Duration PredictedVacancy() const;
  // Fills the snapshot's present load, and its group state while the group calibrates.
  void FillSnapshot(ServerSnapshot* snapshot) const;

 private:
  // Begins the next round of the calibration, or ends it.
  void Calibrate(SteadyTime now);
  // Handles and removes the progress of calibration sequences; begins the next round when all
  // sequences of this one have ended.
  void TakeCalibrationProgress(std::vector<SequenceProgress>* progress, SteadyTime now);
  // Limits the stage times of the oldest plan's result to the time since the plan was sent: a
  // worker cannot have computed for longer.
  void LimitStageTimes(StepResult* result, SteadyTime now);
  // When the next plan should be made. InfinitePast, that is now, unless each stage has a plan;
  // then the next plan is due shortly before the oldest is predicted to be done.
  SteadyTime NextPlanDue() const;

  const ReplicaGroupOptions options_;
  Cluster* const cluster_;
  EngineStats* const stats_;

  std::unique_ptr<Scheduler> scheduler_;  // of the current epoch; null unless the group has formed
  std::optional<StepCostModel> learnt_cost_model_;  // of the last epoch, for the next one

  std::optional<Calibration> calibration_;  // set while it is under way
  SteadyTime calibration_begin_;
  // The sequences of the round, by handle: how many tokens each still has to generate.
  absl::flat_hash_map<uint64_t, int32_t> calibrating_;
  // The handle of the next calibration sequence; far above the handles of requests.
  uint64_t next_calibration_handle_ = uint64_t{1} << 62;

  std::deque<SteadyTime> plan_times_;  // when each plan in flight was sent, oldest first
  SteadyTime oldest_plan_begin_;       // when the oldest plan was sent, or became the oldest
  SteadyTime next_plan_ = SteadyTime::InfiniteFuture();
};

}  // namespace bora
