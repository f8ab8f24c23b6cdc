// The rank that computes, on the CPU. What lives long (device, weights, rotary table) is apart from
// what ends with an epoch (slots, KV contents, links), so that a rank whose peer has died keeps its
// weights and joins the next epoch.
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

// What a rank costs in memory; the coordinator sets n_blocks from it. Bytes.
struct CpuRankMemory {
  int64_t weight_bytes = 0;
  // Activations, scratch of operations, step inputs, rotary table, counts of tokens.
  int64_t workspace_bytes = 0;
  int64_t kv_bytes_per_block = 0;
};

// `limits` as for BeginEpoch, n_blocks aside; `device` with the threads that it will have.
CpuRankMemory PlanCpuRankMemory(const CpuDevice& device, const ModelConfig& config,
                                const RankShape& shape, const Precision& precision,
                                const GroupLimits& limits);

struct RankOptions {
  bool poison_kv = false;  // fills the KV cache with NaN when an epoch begins; for tests
};

// Owned by the rank thread.
class Rank final : public StepExecutor {
 public:
  // `device` outlives the rank.
  Rank(CpuDevice* device, std::unique_ptr<const RankWeights> weights, const RankOptions& options);
  ~Rank() override;

  const RankWeights& weights() const { return *weights_; }

  const ModelConfig& config() const override { return weights_->config(); }
  const RankShape& shape() const override { return weights_->shape(); }

  absl::Status BeginEpoch(const EpochOptions& options) override;
  void EndEpoch() override;
  absl::Status Begin(const StepPlan& plan) override;  // executes it
  absl::StatusOr<std::optional<StepResult>> Finish() override { return std::move(result_); }

 private:
  struct Epoch;

  void CountTokensOf(absl::Span<const SlotOpen> opened);
  // The counts of a slot. [vocab_size]
  absl::Span<uint32_t> TokenCounts(int32_t slot);
  absl::Status RunStage(StepResult* result);
  absl::Status RunHead(StepResult* result);
  void SampleTile(absl::Span<const HeadRow> tile, absl::Span<const float> logits,
                  StepResult* result);

  CpuDevice* const device_;
  const std::unique_ptr<const RankWeights> weights_;
  const RankOptions options_;
  Stage<CpuDevice> stage_;
  std::optional<RopeTable> rope_;
  // uint32_t [max_num_seqs, vocab_size] on the sampler: counts of the tokens of open slots with
  // penalties.
  AlignedBuffer token_counts_;
  std::unique_ptr<Epoch> epoch_;
  std::optional<StepResult> result_;  // of the unfinished plan
};

}  // namespace bora
