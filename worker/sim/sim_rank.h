// A rank that computes nothing: its steps take the time of a stated cost model and give tokens
// drawn by their position. Everything around the computation is real (the checks of plans, the
// pipeline with activations of full size, the way of sampled tokens), so that scheduling can be
// measured with more ranks than there are cores.
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

// Owned by the rank thread, which it makes wake up on time (PR_SET_TIMERSLACK).
//
// A stage takes its share of SimStepTime, by layers, asleep. A token is a pure function of (seed,
// position), the seed counting as 0 at temperature 0, and never one of the request's
// stop_token_ids unless they are all there is, so that a completion has the length it asked for.
// All tokens are equally probable: each is reported with log-probability -log(vocab_size) and rank
// 1, its alternatives being itself and the ids behind it.
class SimRank final : public StepExecutor {
 public:
  SimRank(const ModelConfig& config, const RankShape& shape, const SimCost& cost);

  const ModelConfig& config() const override { return config_; }
  const RankShape& shape() const override { return shape_; }
  absl::Status BeginEpoch(const EpochOptions& options) override;
  void EndEpoch() override { epoch_.reset(); }
  absl::Status Begin(const StepPlan& plan) override;  // executes it
  absl::StatusOr<std::optional<StepResult>> Finish() override { return std::move(result_); }

 private:
  absl::Status RunStage(const StepPlan& plan, StepResult* result);

  const ModelConfig config_;
  const RankShape shape_;
  const SimCost cost_;
  int64_t n_token_ids_ = 0;    // of the epoch
  AlignedBuffer activations_;  // [max_num_batched_tokens, dim]
  std::unique_ptr<EpochState> epoch_;
  std::optional<StepResult> result_;  // of the unfinished plan
};

}  // namespace bora
