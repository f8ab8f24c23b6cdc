#include "worker/stage/epoch_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bora {

RankPlace PlaceOf(const RankShape& shape, int pp_size) {
  return {
      .stage = shape.stage, .tp_rank = shape.tp_rank, .pp_size = pp_size, .tp_size = shape.tp_size};
}

absl::Status CheckEpochOptions(const ModelConfig& config, const RankShape& shape,
                               const EpochOptions& options) {
  RETURN_IF_ERROR(ValidateLimits(options.limits));
  RETURN_IF_ERROR(CheckStepInputsLimits(options.limits));
  RETURN_IF_ERROR(CheckContextLength(config, options.limits.max_model_len));
  if (options.limits.vocab_size > config.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("group limit vocab_size: ", options.limits.vocab_size, ", the model has ",
                     config.vocab_size));
  }
  const RankPlace place = PlaceOf(shape, options.pp_size);
  if (options.pp_size <= shape.stage || place.is_last_stage() != shape.has_head) {
    return absl::InvalidArgumentError(
        absl::StrCat("pp_size ", options.pp_size, " does not fit weights of stage ", shape.stage,
                     shape.has_head ? " with" : " without", " the LM head"));
  }
  if (options.mesh == nullptr) {
    if (place.n_ranks() == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("a group of ", place.n_ranks(), " ranks needs a mesh"));
  }
  if (options.mesh->my_rank() != place.rank()) {
    return absl::InvalidArgumentError(absl::StrCat("the mesh is of rank ", options.mesh->my_rank(),
                                                   ", the weights are of rank ", place.rank()));
  }
  return absl::OkStatus();
}

absl::Status CheckPlanEpoch(const StepPlan& plan, int64_t epoch, const absl::Status& failure) {
  if (plan.epoch != epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("plan epoch: ", plan.epoch, ", this is epoch ", epoch));
  }
  if (!failure.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", epoch, " has failed: ", failure.message()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<EpochState>> EpochState::Begin(const ModelConfig& config,
                                                              const RankShape& shape,
                                                              const EpochOptions& options) {
  RETURN_IF_ERROR(CheckEpochOptions(config, shape, options));
  ASSIGN_OR_RETURN(const int64_t window,
                   TokenFeedback::Window(options.limits, options.link_buffer_bytes));
  return std::unique_ptr<EpochState>(
      new EpochState(PlaceOf(shape, options.pp_size), options, window));
}

EpochState::EpochState(const RankPlace& place, const EpochOptions& options, int64_t feedback_window)
    : epoch_(options.epoch),
      place_(place),
      slots_(options.limits),
      sampling_(options.limits.max_num_seqs),
      inputs_(options.limits),
      boundary_(place, options.mesh),
      feedback_(place, options.limits, options.mesh, feedback_window) {}

absl::StatusOr<std::optional<StepResult>> EpochState::Execute(
    const StepPlan& plan, absl::FunctionRef<absl::Status(StepResult*)> run_stage) {
  RETURN_IF_ERROR(CheckPlanEpoch(plan, epoch_, failure_));
  absl::StatusOr<std::optional<StepResult>> result = ExecuteNext(plan, run_stage);
  failure_ = result.status();
  return result;
}

absl::StatusOr<std::optional<StepResult>> EpochState::ExecuteNext(
    const StepPlan& plan, absl::FunctionRef<absl::Status(StepResult*)> run_stage) {
  RETURN_IF_ERROR(slots_.Apply(plan));
  for (const SlotOpen& open : plan.opened) sampling_[open.slot] = open.sampling;
  RETURN_IF_ERROR(feedback_.Prepare(plan));
  inputs_.Build(plan, slots_, feedback_.last_tokens());
  StepResult result{.epoch = plan.epoch, .step_id = plan.step_id};
  RETURN_IF_ERROR(run_stage(&result));
  RETURN_IF_ERROR(feedback_.Finish(plan, result.sampled));
  if (!place_.is_sampler()) return std::nullopt;
  const absl::Span<const int64_t> stage_us = boundary_.stage_us();
  result.stage_us.assign(stage_us.begin(), stage_us.end());
  return result;
}

}  // namespace bora
