// The state that a rank keeps for an epoch: its slots, the inputs of the current step, and how
// activations and sampled tokens travel through the pipeline. CPU and simulated ranks use all of
// it, CUDA ranks only the functions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "model/step/step.h"
#include "worker/stage/collectives.h"
#include "worker/stage/stage_boundary.h"
#include "worker/stage/step_executor.h"
#include "worker/stage/step_inputs.h"
#include "worker/stage/token_feedback.h"

namespace bora {

// The place of a rank with this shape in a group of `pp_size` stages.
RankPlace PlaceOf(const RankShape& shape, int pp_size);

// Thread-safe. INVALID_ARGUMENT names the first option that breaks its rule: a limit is out of
// range, longer than the model's context or larger than its vocabulary; pp_size does not fit the
// weights of this stage; the mesh is missing or of another rank. `config` and `shape`: of the rank.
absl::Status CheckEpochOptions(const ModelConfig& config, const RankShape& shape,
                               const EpochOptions& options);

// FAILED_PRECONDITION if the plan is not of `epoch`, or if the epoch has failed: `failure` is the
// status of the plan that ended it, OK while none has.
absl::Status CheckPlanEpoch(const StepPlan& plan, int64_t epoch, const absl::Status& failure);

// State of one epoch on one rank. Owned by the rank thread.
class EpochState {
 public:
  // Starts with no slots. INVALID_ARGUMENT as of CheckEpochOptions, or if a link's buffer is too
  // small for the sampled tokens of one plan. options.mesh must outlive the result.
  static absl::StatusOr<std::unique_ptr<EpochState>> Begin(const ModelConfig& config,
                                                           const RankShape& shape,
                                                           const EpochOptions& options);

  const RankPlace& place() const { return place_; }
  // The inputs of the plan that Execute is executing.
  const StepInputs& inputs() const { return inputs_; }
  StageBoundary& boundary() { return boundary_; }
  // The sampling parameters of an open slot; the reference is valid until the slot is opened again.
  const SamplingParams& sampling(int32_t slot) const { return sampling_[slot]; }

  // Executes one plan: checks it and applies it to the slots, waits for the sampled tokens that it
  // embeds, fills in inputs(), calls `run_stage`, and sends the sampled tokens on. `run_stage` must
  // call boundary().Enter, take the step through the stage, and call boundary().Leave; on the
  // sampler it appends the tokens to the result that it is given. Returns the result on the
  // sampler, nothing on other ranks. Errors as of StepExecutor::Begin, and those of `run_stage`;
  // after any except an epoch mismatch the epoch is lost.
  absl::StatusOr<std::optional<StepResult>> Execute(
      const StepPlan& plan, absl::FunctionRef<absl::Status(StepResult*)> run_stage);

 private:
  EpochState(const RankPlace& place, const EpochOptions& options, int64_t feedback_window);

  // Execute, without the checks of epoch and earlier failure.
  absl::StatusOr<std::optional<StepResult>> ExecuteNext(
      const StepPlan& plan, absl::FunctionRef<absl::Status(StepResult*)> run_stage);

  const int64_t epoch_;
  const RankPlace place_;
  SlotTracker slots_;
  std::vector<SamplingParams> sampling_;  // [max_num_seqs], valid for open slots
  StepInputs inputs_;
  StageBoundary boundary_;
  TokenFeedback feedback_;
  absl::Status failure_;  // error of the plan with which the epoch was lost; OK until then
};

}  // namespace bora
