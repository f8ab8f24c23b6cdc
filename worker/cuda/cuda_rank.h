// The rank that computes on a GPU. The host only plans: it packs a step's inputs, queues the step
// (for steps of decoding one graph launch) and goes on to the next, which may use tokens that the
// device has not drawn yet; results come back behind an event. In a group of several ranks their
// exchanges are queued with the step, those of the tensor group inside the graph.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "kernels/nccl/nccl_library.h"
#include "kernels/ops.h"
#include "model/step/step.h"
#include "worker/cuda/cuda_stage.h"
#include "worker/cuda/cuda_step.h"
#include "worker/stage/step_executor.h"
#include "worker/stage/step_inputs.h"
#include "worker/weights/rank_weights.h"

namespace bora {

struct CudaRankOptions {
  bool poison_kv = false;  // fills the KV cache with NaN when an epoch begins; for tests
  // Steps in which every row has one token are recorded as graphs when an epoch begins, one for
  // each of some numbers of rows, and padded to the next number. The bits are the same without.
  bool use_graphs = true;
  // Sums over the tensor group are made in a fixed order (CudaCollectives).
  bool deterministic = true;
  // What links ranks; needed in groups of several. Outlives the rank.
  const NcclLibrary* nccl = nullptr;
};

// Owned by the rank thread.
//
// In a group the work of a step ends only when the peers take part in it, and a peer's death leaves
// kernels that wait for ever. So nothing here waits for the device blindly: while a plan is
// unfinished, IsDone and Finish look at the mesh, whose links to a dead peer break at once, and at
// NCCL's own errors. EndEpoch aborts the communicators, which ends those kernels; it can block in
// NCCL, and then the process must end (WorkerAgent::HasHung).
class CudaRank final : public StepExecutor {
 public:
  // `device` and `stream`, which is the device's, outlive the rank; the weights lie in the device's
  // memory.
  CudaRank(CudaDevice* device, const CudaStream* stream, std::unique_ptr<const RankWeights> weights,
           const CudaRankOptions& options);
  ~CudaRank() override;

  const RankWeights& weights() const { return *weights_; }

  const ModelConfig& config() const override { return weights_->config(); }
  const RankShape& shape() const override { return weights_->shape(); }

  absl::Status BeginEpoch(const EpochOptions& options) override;
  void EndEpoch() override;
  absl::Status Begin(const StepPlan& plan) override;
  int max_begun() const override { return kMaxBegun; }
  bool IsDone() const override;
  absl::StatusOr<std::optional<StepResult>> Finish() override;

 private:
  // One under way on the device, one queued behind it.
  static constexpr int kMaxBegun = 2;

  struct Epoch;
  struct Lane;

  absl::Status Allocate(const GroupLimits& limits);
  absl::Status ConnectEpoch(const EpochOptions& options);
  absl::Status CaptureGraphs(const GroupLimits& limits);
  CudaStepCapacity DecodeCapacity(int64_t n_rows) const;
  // The smallest number of rows with a graph that the plan fits, or 0.
  int64_t GraphRows(const StepPlan& plan, const StepInputs& inputs) const;
  absl::Status QueuePlan(const StepPlan& plan);
  void QueueDeltas(const StepPlan& plan, Lane& lane);
  absl::Status QueueTokenCounts(const StepPlan& plan, Lane& lane);
  absl::Status QueueInputs(const StepPlan& plan, Lane& lane, CudaStepView* step,
                           int64_t* graph_rows);
  absl::Status QueueStep(const CudaStepView& step);
  absl::Status QueueHead(const CudaStepView& step);
  bool LaneIsDone(const Lane& lane) const;
  // What keeps the group from going on, looked for at most once a millisecond; OK in a group of
  // one.
  const absl::Status& GroupError() const;
  // Waits for what the device does; in a group while nothing keeps the group from going on.
  absl::Status WaitUntil(absl::FunctionRef<bool()> is_done) const;

  CudaDevice* const device_;
  const CudaStream* const stream_;
  const std::unique_ptr<const RankWeights> weights_;
  const CudaRankOptions options_;
  Stage<CudaDevice> stage_;

  // Allocated for these limits, and so are graphs.
  GroupLimits limits_;
  AttentionLimits attention_limits_;
  int64_t max_blocks_per_row_ = 0;
  CudaBuffer rope_memory_;
  RopeTableView rope_;
  CudaBuffer inputs_memory_;        // a step's inputs (CudaStepLayout)
  CudaBuffer deltas_memory_;        // TableEntry [..], SlotSampling [max_num_seqs]
  CudaBuffer block_table_memory_;   // int32 [max_num_seqs + 1, max_blocks_per_row]
  CudaBuffer sampling_memory_;      // CudaSampling [max_num_seqs]
  CudaBuffer last_tokens_memory_;   // int32 [max_num_seqs]
  CudaBuffer token_counts_memory_;  // uint32_t [max_num_seqs, vocab_size], of slots with penalties
  CudaBuffer sampled_memory_;       // CudaSampledToken [head rows]
  CudaBuffer collectives_memory_;
  std::array<std::unique_ptr<Lane>, kMaxBegun> lanes_;
  std::map<int64_t, CudaGraph> graphs_;  // by rows

  std::unique_ptr<Epoch> epoch_;
};

}  // namespace bora
