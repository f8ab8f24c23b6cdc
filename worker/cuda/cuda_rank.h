// The rank that computes on a GPU. The host only plans: it packs a step's inputs, queues the step
// (one graph launch if all rows decode), and goes on to the next step, which may use tokens that
// the device has not drawn yet. An event tells when the results are in host memory. In a group of
// several ranks, transfers are queued with the step; those of the tensor group are in the graph.
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
  // Decoding steps, in which every row has one token, are run as graphs. They are recorded when an
  // epoch begins, one for each of the numbers of rows in GraphSizes; a step is padded to the next
  // number. The results have the same bits with and without graphs.
  bool use_graphs = true;
  // Sums over the tensor group are made in a fixed order (CudaCollectives).
  bool deterministic = true;
  // Links ranks; may be null if every group has one rank. Must outlive the rank.
  const NcclLibrary* nccl = nullptr;
};

// Owned by the rank thread.
//
// Peers. In a group of several ranks the work of a step ends only if all peers take part in it; if
// a peer dies, kernels that wait for it never end. So while a plan is unfinished, IsDone and Finish
// do not just wait for the device: they also check the mesh, whose links to a dead peer break at
// once, and NCCL's own errors. EndEpoch aborts the communicators, which ends the waiting kernels.
// The abort can block in NCCL; then the process must end (WorkerAgent::HasHung).
class CudaRank final : public StepExecutor {
 public:
  // `weights` lie in the memory of `device`, and `stream` is the stream of `device`. Both must
  // outlive the rank.
  CudaRank(CudaDevice* device, const CudaStream* stream, std::unique_ptr<const RankWeights> weights,
           const CudaRankOptions& options);
  // Ends the epoch, if one is on.
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
  // One plan that the device executes, and one queued behind it, so that the device never waits for
  // the host.
  static constexpr int kMaxBegun = 2;

  struct Epoch;
  struct Lane;

  // Allocates all buffers for `limits` and fills those that never change. RESOURCE_EXHAUSTED.
  absl::Status Allocate(const GroupLimits& limits);
  // Links the rank with its peers. Does nothing in a group of one.
  absl::Status ConnectEpoch(const EpochOptions& options);
  // Records the graphs of decoding steps.
  absl::Status CaptureGraphs(const GroupLimits& limits);
  // The capacity of the arrays of a graph for `n_rows` rows.
  CudaStepCapacity DecodeCapacity(int64_t n_rows) const;
  // The smallest number of rows of a graph that can run the plan; 0 if no graph can.
  int64_t GraphRows(const StepPlan& plan, const StepInputs& inputs) const;
  // Begin, without the checks of epoch and earlier failure. The functions from here to QueueHead
  // queue work on stream_; their errors are NCCL's and the mesh's.
  absl::Status QueuePlan(const StepPlan& plan);
  // The plan's granted blocks and opened slots, into the device's tables.
  void QueueDeltas(const StepPlan& plan, Lane& lane);
  // The token counts that opened slots with penalties begin with. Tokens drawn later are counted on
  // the device.
  absl::Status QueueTokenCounts(const StepPlan& plan, Lane& lane);
  // Packs the step's inputs and queues their copy. *graph_rows: the rows of the graph that computes
  // the step; 0 if no graph does and *step, the view of the inputs, must be queued with QueueStep.
  absl::Status QueueInputs(const StepPlan& plan, Lane& lane, CudaStepView* step,
                           int64_t* graph_rows);
  // The stage's part of the forward pass and the draws. Graphs are recorded from it, so that
  // everything that it reads from host memory must be a function of the graph's number of rows.
  absl::Status QueueStep(const CudaStepView& step);
  // The last stage's part of QueueStep: LM head, draws, and the tokens' way to the tensor group.
  absl::Status QueueHead(const CudaStepView& step);
  // Whether the work of a plan and its sends are complete.
  bool LaneIsDone(const Lane& lane) const;
  // The error because of which the group cannot go on; it is looked for at most once a millisecond.
  // OK if there is none, and in a group of one.
  const absl::Status& GroupError() const;
  // Waits until `is_done()` or GroupError(), which it returns.
  absl::Status WaitUntil(absl::FunctionRef<bool()> is_done) const;

  CudaDevice* const device_;
  const CudaStream* const stream_;
  const std::unique_ptr<const RankWeights> weights_;
  const CudaRankOptions options_;
  Stage<CudaDevice> stage_;

  // All members from here to graphs_ were allocated or recorded for these limits.
  GroupLimits limits_;
  AttentionLimits attention_limits_;
  int64_t max_blocks_per_row_ = 0;
  CudaBuffer rope_memory_;  // of rope_
  RopeTableView rope_;
  CudaBuffer inputs_memory_;        // a step's inputs (CudaStepLayout)
  CudaBuffer deltas_memory_;        // a step's TableEntry and SlotSampling arrays
  CudaBuffer block_table_memory_;   // int32 [max_num_seqs + 1, max_blocks_per_row]; last: padding
  CudaBuffer sampling_memory_;      // CudaSampling [max_num_seqs]
  CudaBuffer last_tokens_memory_;   // int32 [max_num_seqs]
  CudaBuffer token_counts_memory_;  // uint32_t [max_num_seqs, vocab_size], of slots with penalties
  CudaBuffer sampled_memory_;       // CudaSampledToken [head rows]
  CudaBuffer collectives_memory_;   // scratch of CudaCollectives
  std::array<std::unique_ptr<Lane>, kMaxBegun> lanes_;  // plan i of the epoch uses i % kMaxBegun
  std::map<int64_t, CudaGraph> graphs_;                 // by number of rows

  std::unique_ptr<Epoch> epoch_;
};

}  // namespace bora
