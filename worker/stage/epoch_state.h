// What a rank of any kind keeps for an epoch: slots, the inputs of the step at hand, and the ways
// of activations and sampled tokens through the pipeline.
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

// Of a rank of this shape in a group of pp_size stages.
RankPlace PlaceOf(const RankShape& shape, int pp_size);

// INVALID_ARGUMENT as StepExecutor::BeginEpoch says; `config` and `shape` are the rank's.
absl::Status CheckEpochOptions(const ModelConfig& config, const RankShape& shape,
                               const EpochOptions& options);

// FAILED_PRECONDITION if the plan is not of `epoch`, or if the epoch has failed: `failure` is the
// status of the plan that ended it, OK while none has.
absl::Status CheckPlanEpoch(const StepPlan& plan, int64_t epoch, const absl::Status& failure);

// Owned by the rank thread.
class EpochState {
 public:
  // INVALID_ARGUMENT as StepExecutor::BeginEpoch says; `config` and `shape` are the rank's.
  static absl::StatusOr<std::unique_ptr<EpochState>> Begin(const ModelConfig& config,
                                                           const RankShape& shape,
                                                           const EpochOptions& options);

  const RankPlace& place() const { return place_; }
  const StepInputs& inputs() const { return inputs_; }
  StageBoundary& boundary() { return boundary_; }
  // Of an open slot; valid until it is opened again.
  const SamplingParams& sampling(int32_t slot) const { return sampling_[slot]; }

  // Executes one plan, as StepExecutor::Execute says: checks it and applies it to the slots, waits
  // for the sampled tokens that it embeds, fills in inputs(), calls `run_stage`, passes on what was
  // sampled. run_stage takes the step through the stage between boundary().Enter and Leave; on the
  // last stage it appends the tokens to the result.
  absl::StatusOr<std::optional<StepResult>> Execute(
      const StepPlan& plan, absl::FunctionRef<absl::Status(StepResult*)> run_stage);

 private:
  EpochState(const RankPlace& place, const EpochOptions& options, int64_t feedback_window);

  absl::StatusOr<std::optional<StepResult>> ExecuteNext(
      const StepPlan& plan, absl::FunctionRef<absl::Status(StepResult*)> run_stage);

  const int64_t epoch_;
  const RankPlace place_;
  SlotTracker slots_;
  std::vector<SamplingParams> sampling_;  // [max_num_seqs] of the open slots
  StepInputs inputs_;
  StageBoundary boundary_;
  TokenFeedback feedback_;
  absl::Status failure_;  // of the plan that ended the epoch
};

}  // namespace bora
