// One group of workers: which worker has which place, and the epochs in which they serve together.
//
//   waiting for workers -> loading -> joining (a new epoch) -> serving
//
// Loss of any worker ends the epoch: the survivors leave it and keep their weights, and the next
// epoch begins as soon as every place is filled by a worker that has its weights.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/server_snapshot.h"
#include "coordinator/cluster/cluster_options.h"
#include "coordinator/cluster/group_event.h"
#include "coordinator/cluster/step_watch.h"
#include "coordinator/cluster/weight_agreement.h"
#include "coordinator/cluster/worker_registry.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// Owned by the engine thread; no clock, thread or I/O of its own. What happens is appended to the
// events that TakeEvents returns.
class WorkerGroup {
 public:
  // `options` and `registry` outlive the group. `make_secret` returns 32 random bytes.
  WorkerGroup(const ClusterOptions& options, WorkerRegistry* registry,
              std::function<std::string()> make_secret);

  // Gives free places to spares of the registry.
  void FillPlaces(SteadyTime now);

  // Messages of a worker of the registry.
  void OnLoadProgress(AttachedWorker* worker, const LoadProgress& progress, SteadyTime now);
  void OnLoadResult(AttachedWorker* worker, LoadResult result, SteadyTime now);
  void OnJoinResult(AttachedWorker* worker, const JoinResult& result, SteadyTime now);
  void OnStepResult(AttachedWorker* worker, StepResult result, SteadyTime now);
  void OnStepFailed(const AttachedWorker& worker, const StepFailed& failed, SteadyTime now);

  // Ends the worker's stream and takes its place away.
  void Drop(AttachedWorker* worker, const absl::Status& reason, SteadyTime now);
  // The stream of the worker has ended by itself.
  void OnGone(AttachedWorker* worker, const std::string& reason, SteadyTime now);
  // Drops workers that load and get no further, ends joins that take too long and epochs whose
  // oldest step hangs, and begins the next epoch if its time has come. Called several times a
  // second. predicted_step: see StepWatch::Limit.
  void Tick(SteadyTime now, absl::Duration predicted_step);

  // Sends a plan to every rank. REQUIRES: serving(), and the plan is of this epoch.
  void Broadcast(const std::shared_ptr<const StepPlan>& plan, SteadyTime now);
  // Drops the worker that has said the last StepDone's result.
  void RejectStepResult(const absl::Status& reason, SteadyTime now);
  // The registry has closed every stream.
  void ForgetAll();

  std::vector<GroupEvent> TakeEvents();

  bool serving() const { return state_ == GroupState::kServing; }
  // No rank is suspect.
  bool all_heard() const;
  int64_t epoch() const { return epoch_; }
  const std::string& fingerprint() const { return weights_.fingerprint(); }
  // Fills the snapshot's state, detail, epoch and digest.
  void FillSnapshot(ServerSnapshot* snapshot) const;
  // Fills what a worker has by its place in this group. REQUIRES: worker.rank >= 0.
  void FillPlace(const AttachedWorker& worker, WorkerSnapshot* snapshot) const;

 private:
  void Place(AttachedWorker* worker, int32_t rank, SteadyTime now);
  // OK if the worker's checkpoint is the group's.
  absl::Status CheckFingerprint(const AttachedWorker& worker, const std::string& fingerprint,
                                SteadyTime now);
  absl::Status CheckLoaded(const AttachedWorker& worker, const LoadedModel& loaded, SteadyTime now);
  // Takes the place of a worker away that is not in the registry any more.
  void Vacate(const AttachedWorker& worker, const std::string& reason, SteadyTime now);
  void DropStalledLoaders(SteadyTime now);
  void MaybeBeginEpoch(SteadyTime now);
  void BeginEpoch(SteadyTime now);
  // Whether all copies of the same bytes agree; if not, the newer of two workers is dropped.
  bool CheckCopies(SteadyTime now);
  absl::StatusOr<int32_t> CountBlocks() const;
  void OnAllJoined(SteadyTime now);
  void EndEpoch(const std::string& reason, SteadyTime now);
  bool AllAre(WorkerState state) const;
  // REQUIRES: every place is filled.
  std::vector<WeightDigests> RankDigests() const;  // [n_ranks]
  // Tensor rank 0 of the last stage.
  int32_t answering_rank() const { return options_.n_ranks() - options_.tp_size(); }
  std::string DescribeSuspects() const;
  std::string DescribeProgress() const;

  const ClusterOptions& options_;
  WorkerRegistry* const registry_;
  const std::function<std::string()> make_secret_;
  std::vector<GroupEvent> events_;

  // Places.
  std::vector<AttachedWorker*> ranks_;  // [n_ranks], null for a free place
  GroupState state_ = GroupState::kWaitingForWorkers;
  std::string detail_;  // of the last trouble, for people
  WeightAgreement weights_;

  // The epoch.
  int64_t epoch_ = 0;
  GroupLimits limits_;
  SteadyTime join_begin_;
  SteadyTime next_join_ = SteadyTime::InfinitePast();  // the next epoch begins no sooner
  int32_t n_failed_joins_ = 0;                         // since a group last formed
  StepWatch step_watch_;
};

}  // namespace bora
