// One rank of a group: executes the coordinator's plans in order. What lives long (device, weights,
// rotary table) is apart from what ends with an epoch (slots, KV contents, links), so that a rank
// whose peer has died keeps its weights and joins the next epoch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "model/step.h"
#include "worker/collectives.h"
#include "worker/comm/communicator.h"
#include "worker/rank_weights.h"
#include "worker/stage.h"
#include "worker/step_inputs.h"
#include "worker/token_feedback.h"

namespace bora {

// What a rank costs in memory; the coordinator sets n_blocks from it. Bytes.
struct RankMemory {
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;  // activations, step inputs, rotary table
  int64_t kv_bytes_per_block = 0;
};

// `limits` as for BeginEpoch, n_blocks aside.
RankMemory PlanRankMemory(const ModelConfig& config, const RankShape& shape,
                          const Precision& precision, const GroupLimits& limits);

struct RankOptions {
  bool poison_kv = false;  // fills the KV cache with NaN when an epoch begins; for tests
};

struct EpochOptions {
  int64_t epoch = 0;
  GroupLimits limits;
  int pp_size = 1;
  Mesh* mesh = nullptr;  // linked as MeshPeers says; null for a group of one rank
  int64_t link_buffer_bytes = MeshOptions().ring_bytes;
};

// Owned by the rank thread: every call comes from it. Mesh::Abort from another thread ends a call
// that waits for a peer.
class Rank {
 public:
  // `device` outlives the rank.
  Rank(CpuDevice* device, std::unique_ptr<const RankWeights> weights, const RankOptions& options);
  ~Rank();
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  const RankWeights& weights() const { return *weights_; }

  // Starts with no slots and no tokens. Memory is allocated here if it is not there already.
  // INVALID_ARGUMENT names a limit or a number that does not fit the weights, RESOURCE_EXHAUSTED
  // the memory that is missing; the rank is then in no epoch. CHECK-fails when an epoch is on.
  // options.mesh must live until EndEpoch.
  absl::Status BeginEpoch(const EpochOptions& options);

  // Forgets the epoch and lets go of its mesh. Weights and memory stay. Fine without an epoch.
  void EndEpoch();

  // Executes one plan; a result on the sampler (RankPlace::is_sampler), nothing on other ranks.
  //
  //   FAILED_PRECONDITION  no epoch, another epoch than the plan's (nothing has changed then), or
  //                        an earlier plan of this epoch has failed.
  //   INVALID_ARGUMENT     the plan breaks a rule of model/step.h.
  //   others               from the mesh.
  //
  // After any but the epoch mismatch, the epoch is lost: EndEpoch, and BeginEpoch with a new mesh.
  absl::StatusOr<std::optional<StepResult>> Execute(const StepPlan& plan);

 private:
  struct Epoch;

  absl::Status CheckEpoch(const EpochOptions& options) const;
  absl::StatusOr<std::optional<StepResult>> ExecuteInEpoch(const StepPlan& plan);
  absl::Status RunHead(StepResult* result);
  void SampleTile(absl::Span<const HeadRow> tile, absl::Span<const float> logits,
                  StepResult* result);

  CpuDevice* const device_;
  const std::unique_ptr<const RankWeights> weights_;
  const RankOptions options_;
  Stage<CpuDevice> stage_;
  std::optional<RopeTable> rope_;
  std::unique_ptr<Epoch> epoch_;
};

}  // namespace bora
