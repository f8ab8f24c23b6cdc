#include "coordinator/engine/replica_group.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace bora {
namespace {

// The next plan is made this long before the oldest plan is predicted to be done: a share of the
// predicted time, by which the prediction may be wrong, and the time to make and send a plan. Later
// is better as long as no worker waits: requests that arrive until then are in the plan.
constexpr double kPlanAheadShare = 0.25;
constexpr absl::Duration kPlanAheadMin = absl::Milliseconds(1);

}  // namespace

ReplicaGroup::ReplicaGroup(ReplicaGroupOptions options, Cluster* cluster, EngineStats* stats)
    : options_(std::move(options)), cluster_(cluster), stats_(stats) {}

void ReplicaGroup::OnFormed(const GroupFormed& formed, SteadyTime now) {
  plan_times_.clear();
  SchedulerOptions options;
  options.limits = formed.limits;
  options.epoch = formed.epoch;
  options.n_stages = cluster_->pp_size();
  options.run_ahead = options_.run_ahead;
  options.tenant_weights = options_.tenant_weights;
  options.step_time_budget_us = absl::ToDoubleMicroseconds(options_.step_time_budget);
  scheduler_ = std::make_unique<Scheduler>(options);
  if (learnt_cost_model_.has_value()) {
    scheduler_->set_cost_model(*std::exchange(learnt_cost_model_, std::nullopt));
  } else if (options_.calibration_budget > absl::ZeroDuration()) {
    calibration_.emplace(formed.limits, absl::ToDoubleMicroseconds(options_.calibration_budget));
    calibration_begin_ = now;
    LogInfo("calibrating",
            {{"budget_ms", absl::ToDoubleMilliseconds(options_.calibration_budget)}});
    Calibrate(now);
  }
}

std::unique_ptr<Scheduler> ReplicaGroup::OnLost() {
  if (scheduler_ != nullptr) {
    stats_->GroupLost(scheduler_->n_preemptions());
    if (!calibration_.has_value()) learnt_cost_model_ = scheduler_->cost_model();
  }
  calibration_.reset();
  calibrating_.clear();
  return std::move(scheduler_);
}

void ReplicaGroup::Calibrate(SteadyTime now) {
  const double elapsed_us = absl::ToDoubleMicroseconds(now - calibration_begin_);
  std::vector<SequenceSpec> round =
      calibration_->NextRound(scheduler_->cost_model(), elapsed_us, next_calibration_handle_);
  if (round.empty()) {
    const StepCostModel& model = scheduler_->cost_model();
    LogInfo("calibrated", {{"steps", model.n_observations()},
                           {"ms", elapsed_us / 1e3},
                           {"decode_step_ms", model.PredictDecodeStep(1) / 1e3},
                           {"prompt_token_us", scheduler_->PromptTokenUs()}});
    // The errors of the first predictions say nothing about the model that has been learnt.
    scheduler_->ForgetPredictionErrors();
    calibration_.reset();
    return;
  }
  next_calibration_handle_ += round.size();
  for (SequenceSpec& spec : round) {
    calibrating_[spec.handle] = spec.max_tokens;
    scheduler_->Add(std::move(spec));
  }
}

void ReplicaGroup::TakeCalibrationProgress(std::vector<SequenceProgress>* progress,
                                           SteadyTime now) {
  // While the group calibrates, the scheduler has no sequences of requests.
  for (const SequenceProgress& item : *progress) {
    const auto it = calibrating_.find(item.handle);
    if (it == calibrating_.end() || --it->second > 0) continue;
    scheduler_->Remove(item.handle);
    calibrating_.erase(it);
  }
  progress->clear();
  if (calibrating_.empty()) Calibrate(now);
}

void ReplicaGroup::LimitStageTimes(StepResult* result, SteadyTime now) {
  if (plan_times_.empty()) return;
  const int64_t us_max = std::max<int64_t>(absl::ToInt64Microseconds(now - plan_times_.front()), 0);
  plan_times_.pop_front();
  for (int64_t& us : result->stage_us) us = std::clamp<int64_t>(us, 0, us_max);
}

absl::StatusOr<std::vector<SequenceProgress>> ReplicaGroup::OnStepDone(StepResult result,
                                                                       SteadyTime now) {
  LimitStageTimes(&result, now);
  oldest_plan_begin_ = now;
  stats_->StepDone(result);
  absl::StatusOr<std::vector<SequenceProgress>> progress =
      scheduler_->CompleteStep(std::move(result));
  if (!progress.ok()) return progress;
  if (calibration_.has_value()) {
    TakeCalibrationProgress(&*progress, now);
  } else {
    stats_->ServedStep();
  }
  return progress;
}

SteadyTime ReplicaGroup::NextPlanDue() const {
  if (!scheduler_->stages_full()) return SteadyTime::InfinitePast();
  const absl::Duration predicted = absl::Microseconds(scheduler_->oldest_plan_us());
  return oldest_plan_begin_ + (1 - kPlanAheadShare) * predicted - kPlanAheadMin;
}

std::vector<Admission> ReplicaGroup::PlanSteps(SteadyTime now) {
  std::vector<Admission> admissions;
  next_plan_ = SteadyTime::InfiniteFuture();
  while (scheduler_ != nullptr && cluster_->serving()) {
    const SteadyTime due = NextPlanDue();
    if (now < due) {
      next_plan_ = due;
      break;
    }
    if (scheduler_->n_in_flight() == 0) oldest_plan_begin_ = now;  // this plan will be the oldest
    scheduler_->AdvanceTo(absl::ToInt64Microseconds(now.since_beginning()));
    std::optional<StepPlan> plan = scheduler_->PlanStep();
    if (!plan.has_value()) break;
    plan_times_.push_back(now);
    if (!calibration_.has_value()) {
      admissions.insert(admissions.end(), scheduler_->newly_admitted().begin(),
                        scheduler_->newly_admitted().end());
      int64_t n_prompt_tokens = 0;
      for (const StepRow& row : plan->rows) {
        if (!row.use_last_sampled) n_prompt_tokens += row.n_tokens;
      }
      stats_->PlannedPromptTokens(n_prompt_tokens);
    }
    cluster_->Broadcast(std::make_shared<const StepPlan>(*std::move(plan)), now);
  }
  return admissions;
}

absl::Duration ReplicaGroup::PredictedStep() const {
  if (scheduler_ == nullptr) return absl::ZeroDuration();
  return cluster_->pp_size() * absl::Microseconds(scheduler_->oldest_plan_us());
}

absl::Duration ReplicaGroup::PredictedVacancy() const {
  if (scheduler_ == nullptr) return absl::ZeroDuration();
  return absl::Microseconds(scheduler_->PredictVacancyUs());
}

void ReplicaGroup::FillSnapshot(ServerSnapshot* snapshot) const {
  if (calibration_.has_value()) {
    snapshot->group_state = GroupState::kJoining;  // the group does not serve yet
    snapshot->group_detail = "calibrating";
  }
  if (scheduler_ == nullptr) return;
  LoadSnapshot& load = snapshot->load;
  load.n_running = scheduler_->n_running();
  load.n_waiting = scheduler_->n_waiting();
  load.n_waiting_prompt_tokens = scheduler_->n_waiting_prompt_tokens();
  load.n_steps_in_flight = scheduler_->n_in_flight();
  load.n_blocks = scheduler_->blocks().n_blocks();
  load.n_blocks_used = scheduler_->blocks().n_held();
  load.n_blocks_cached = scheduler_->blocks().n_cached();
  load.n_preemptions_total += scheduler_->n_preemptions();
  load.step_time_error_p90 = scheduler_->cost_model().RelativeErrorP90();
}

}  // namespace bora
