// The rank that computes on the CPU. State that outlives epochs (device, weights, rotary table) is
// kept apart from state that ends with an epoch (slots, KV contents, links), so that a rank whose
// peer has died keeps its weights and joins the next epoch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "model/step/step.h"
#include "worker/stage/stage.h"
#include "worker/stage/step_executor.h"
#include "worker/stage/step_inputs.h"
#include "worker/weights/aligned_buffer.h"
#include "worker/weights/rank_weights.h"

namespace bora {

// The host memory of a rank; the worker derives from it how many KV blocks fit.
struct CpuRankMemory {
  int64_t weight_bytes = 0;
  // Everything except weights and KV blocks: activations, scratch of operations, step inputs,
  // rotary table, token counts.
  int64_t workspace_bytes = 0;
  int64_t kv_bytes_per_block = 0;  // over all layers of the rank
};

// The memory that a rank of this shape will take under `limits`, whose n_blocks does not matter.
// `device` must have the number of threads with which the rank will run: scratch grows with it.
CpuRankMemory PlanCpuRankMemory(const CpuDevice& device, const ModelConfig& config,
                                const RankShape& shape, const Precision& precision,
                                const GroupLimits& limits);

struct RankOptions {
  bool poison_kv = false;  // fills the KV cache with NaN when an epoch begins; for tests
};

// Owned by the rank thread. Begin executes the whole plan; Finish only returns its result.
class CpuRank final : public StepExecutor {
 public:
  // `device` must outlive the rank.
  CpuRank(CpuDevice* device, std::unique_ptr<const RankWeights> weights,
          const RankOptions& options);
  ~CpuRank() override;

  const RankWeights& weights() const { return *weights_; }

  const ModelConfig& config() const override { return weights_->config(); }
  const RankShape& shape() const override { return weights_->shape(); }

  absl::Status BeginEpoch(const EpochOptions& options) override;
  void EndEpoch() override;
  absl::Status Begin(const StepPlan& plan) override;
  absl::StatusOr<std::optional<StepResult>> Finish() override { return std::move(result_); }

 private:
  struct Epoch;

  // Sampler: notes which of the opened slots have penalties, and counts the tokens known to them.
  void CountTokensOf(absl::Span<const SlotOpen> opened);
  // Sampler: the token counts of a slot. [GroupLimits::vocab_size]
  absl::Span<uint32_t> TokenCounts(int32_t slot);
  // EpochState::Execute's run_stage: takes the step through this stage.
  absl::Status RunStage(StepResult* result);
  // Last stage: takes the head rows through the LM head, a tile at a time.
  absl::Status RunHead(StepResult* result);
  // Sampler: draws or scores the tokens of a tile and appends them to *result.
  // logits: [tile.size(), vocab_size of the model].
  void SampleTile(absl::Span<const HeadRow> tile, absl::Span<const float> logits,
                  StepResult* result);

  CpuDevice* const device_;
  const std::unique_ptr<const RankWeights> weights_;
  const RankOptions options_;
  Stage<CpuDevice> stage_;
  std::optional<RopeTable> rope_;  // for the greatest max_model_len so far
  // Sampler: how often each token occurs in each slot; valid for open slots with penalties.
  // uint32_t [max_num_seqs, GroupLimits::vocab_size]
  AlignedBuffer token_counts_;
  std::unique_ptr<Epoch> epoch_;
  std::optional<StepResult> result_;  // of the plan that was begun and is not finished
};

}  // namespace bora
