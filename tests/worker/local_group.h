// A whole group inside one process: every rank a thread with its own device, weights and real links
// over loopback or shared memory. What the coordinator and worker services do around it is left
// out, so property tests drive the engine itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mailbox.h"
#include "model/checkpoint/weights_source.h"
#include "model/step/step.h"
#include "worker/cpu/cpu_rank.h"
#include "worker/sim/sim_cost.h"
#include "worker/weights/weight_reading.h"

namespace bora {

struct LocalGroupOptions {
  int tp_size = 1;
  int pp_size = 1;
  std::vector<int64_t> layers_per_stage;  // [pp_size]; empty: balanced
  GroupLimits limits;
  Precision precision = DType::kF32;
  int n_threads = 1;  // of each rank
  SimdChoice simd = BestSimdLevel();
  RankOptions rank;
  std::optional<SimCost> sim_cost;  // simulated ranks, which use only the weights' config
  // Ranks of another kind: called on each rank's thread, which the rank stays on.
  std::function<absl::StatusOr<std::unique_ptr<StepExecutor>>(const WeightSource& weights,
                                                              const RankShape& shape)>
      make_rank;
  LoadOptions load;
  bool allow_shared_memory = true;
  int64_t link_buffer_bytes = MeshOptions().ring_bytes;
};

// Owned by the test's thread. Submit never blocks: the number of plans in flight is the caller's.
class LocalGroup {
 public:
  // Loads every rank's share of `weights`, which is not used afterwards, links the ranks and begins
  // epoch 1. Errors of Rank, Mesh and MakePartition.
  static absl::StatusOr<std::unique_ptr<LocalGroup>> Start(const WeightSource& weights,
                                                           const LocalGroupOptions& options);
  ~LocalGroup();
  LocalGroup(const LocalGroup&) = delete;
  LocalGroup& operator=(const LocalGroup&) = delete;

  // What a plan's epoch must be.
  int64_t epoch() const { return epoch_; }
  int n_ranks() const { return static_cast<int>(ranks_.size()); }
  const LocalGroupOptions& options() const { return options_; }

  // Hands the plan to every rank.
  void Submit(const StepPlan& plan);
  // Hands the plan to one rank only, as a coordinator that fails half-way does.
  void SubmitTo(int rank, const StepPlan& plan);

  // Returns when the rank has executed every plan handed to it.
  void WaitIdle(int rank);

  // The next result in plan order, or the error of the first rank that failed (further ranks'
  // errors follow). DEADLINE_EXCEEDED when nothing comes.
  absl::StatusOr<StepResult> WaitResult(absl::Duration timeout = absl::Seconds(60));

  // Submits one plan and waits for its result; no other may be in flight.
  absl::StatusOr<StepResult> RunStep(const StepPlan& plan);

  // Breaks the links of the current epoch, as a worker does when a new one is announced. Returns at
  // once.
  void Abort();

  // Ends the epoch on all ranks, whatever they are doing, drops results that were not taken, links
  // the ranks anew and begins the next one. Ranks keep their weights. `limits` may differ.
  absl::Status NextEpoch(const GroupLimits& limits);
  absl::Status NextEpoch() { return NextEpoch(options_.limits); }

  // Whether weights(rank) can be asked for: ranks of make_rank and simulated ones show none.
  bool has_weights(int rank) const;
  // The weights of a rank; valid as long as the group.
  const RankWeights& weights(int rank) const;

 private:
  struct RankThread;

  explicit LocalGroup(const LocalGroupOptions& options);

  // Runs `task` on every rank's thread and waits for all. The first error.
  absl::Status OnAllRanks(const std::function<absl::Status(RankThread&)>& task);
  absl::Status Load(const WeightSource& weights);
  absl::Status BeginEpoch();
  // Waits for the thread's oldest plan that has begun, and pushes its result.
  void FinishPlan(RankThread& thread);
  void PushResult(absl::StatusOr<StepResult> result);

  LocalGroupOptions options_;
  int64_t epoch_ = 0;
  std::vector<RankAddress> addresses_;
  // Pointers, because g++ 12 warns falsely about an optional StatusOr.
  Mailbox<std::unique_ptr<absl::StatusOr<StepResult>>> results_;
  std::vector<std::unique_ptr<RankThread>> ranks_;
};

}  // namespace bora
