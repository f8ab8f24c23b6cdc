// A rank that computes nothing: its steps take the time that a cost model states, and its tokens
// are functions of seed and position. Everything around the computation is real (the checks of
// plans, the pipeline with activations of full size, the feedback of sampled tokens), so that
// scheduling can be measured with more ranks than there are cores.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "model/config.h"
#include "model/planning/partition.h"
#include "worker/sim/sim_cost.h"
#include "worker/stage/epoch_state.h"
#include "worker/stage/step_executor.h"
#include "worker/weights/aligned_buffer.h"

namespace bora {

// Owned by the rank thread. BeginEpoch sets that thread's timer slack (PR_SET_TIMERSLACK), so that
// its sleeps end on time.
//
// Time. A stage sleeps for its share of SimStepTime: its layers divided by the model's.
// Tokens. A token is a pure function of (seed, position), where the seed counts as 0 if the
// temperature is 0. It is never one of the request's stop_token_ids, unless these are the whole
// vocabulary, so that a completion has the length that the request asks for. Log-probabilities. All
// tokens are equally probable: each is reported with log-probability -log(vocab_size) and rank 1;
// its alternatives are itself and the ids that follow it.
class SimRank final : public StepExecutor {
 public:
  SimRank(const ModelConfig& config, const RankShape& shape, const SimCost& cost);

  const ModelConfig& config() const override { return config_; }
  const RankShape& shape() const override { return shape_; }
  absl::Status BeginEpoch(const EpochOptions& options) override;
  void EndEpoch() override { epoch_.reset(); }
  absl::Status Begin(const StepPlan& plan) override;  // executes the plan
  absl::StatusOr<std::optional<StepResult>> Finish() override { return std::move(result_); }

 private:
  // The run_stage of EpochState::Execute: receives, sleeps, draws on the sampler, and sends.
  absl::Status RunStage(const StepPlan& plan, StepResult* result);

  const ModelConfig config_;
  const RankShape shape_;
  const SimCost cost_;
  int64_t n_token_ids_ = 0;    // GroupLimits::vocab_size of the epoch
  AlignedBuffer activations_;  // float [max_num_batched_tokens, dim]; its contents mean nothing
  std::unique_ptr<EpochState> epoch_;
  std::optional<StepResult> result_;  // of the plan that was begun and is not finished
};

}  // namespace bora
