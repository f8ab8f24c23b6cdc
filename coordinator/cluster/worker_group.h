// One group of workers: which worker has which place, and the epochs in which the workers serve
// together. The states of a group are:
//
//   waiting for workers -> loading -> joining (a new epoch) -> serving
//
// The loss of any worker ends the epoch. The other workers leave the epoch and keep their weights,
// and the next epoch begins as soon as every place has a worker that has loaded its weights.
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

// Owned by the engine thread; no clock, thread or I/O of its own. The owner learns of changes by
// TakeEvents.
class WorkerGroup {
 public:
  // `options` and `registry` outlive the group. `make_secret` returns 32 random bytes, by which the
  // ranks of an epoch authenticate each other.
  WorkerGroup(const ClusterOptions& options, WorkerRegistry* registry,
              std::function<std::string()> make_secret);

  // Gives free places to spares of the registry, which begin to load.
  void FillPlaces(SteadyTime now);

  // Messages of a worker of the registry. A result that the worker does not owe, and a load that
  // has failed, drop the worker; a join or step that has failed ends the epoch.
  void OnLoadProgress(AttachedWorker* worker, const LoadProgress& progress, SteadyTime now);
  void OnLoadResult(AttachedWorker* worker, LoadResult result, SteadyTime now);
  void OnJoinResult(AttachedWorker* worker, const JoinResult& result, SteadyTime now);
  void OnStepResult(AttachedWorker* worker, StepResult result, SteadyTime now);
  void OnStepFailed(const AttachedWorker& worker, const StepFailed& failed, SteadyTime now);

  // Closes the worker's stream with the reason, and removes the worker from the registry and from
  // its place. *worker is deleted.
  void Drop(AttachedWorker* worker, const absl::Status& reason, SteadyTime now);
  // The worker's stream has ended by itself: removes the worker as Drop does.
  void OnGone(AttachedWorker* worker, const std::string& reason, SteadyTime now);
  // Drops workers whose load makes no progress, ends joins that take too long and epochs whose
  // oldest step hangs, and begins the next epoch if it is due. Call several times a second.
  // predicted_step: see StepWatch::Limit.
  void Tick(SteadyTime now, absl::Duration predicted_step);

  // Sends a plan to every rank. REQUIRES: serving(), and the plan is of this epoch.
  void Broadcast(const std::shared_ptr<const StepPlan>& plan, SteadyTime now);
  // Drops the worker that has sent the result of the last StepDone; nothing if the epoch has ended
  // meanwhile.
  void RejectStepResult(const absl::Status& reason, SteadyTime now);
  // Forgets all workers. To be called after the registry has closed every stream.
  void ForgetAll();

  // Returns the events since the last call, in the order in which they happened.
  std::vector<GroupEvent> TakeEvents();

  // Whether the group has formed and plans may be sent.
  bool serving() const { return state_ == GroupState::kServing; }
  // Whether no rank is suspect.
  bool all_heard() const;
  // The current epoch, or the last one; 0 before the first.
  int64_t epoch() const { return epoch_; }
  const std::string& fingerprint() const { return weights_.fingerprint(); }
  // Fills the snapshot's group_state, group_detail, epoch and weights_digest.
  void FillSnapshot(ServerSnapshot* snapshot) const;
  // Fills the fields that follow from the worker's place: stage, tensor rank, layers and memory.
  // REQUIRES: worker.rank >= 0.
  void FillPlace(const AttachedWorker& worker, WorkerSnapshot* snapshot) const;

 private:
  // Gives a free rank to a spare and tells it what to load.
  void Place(AttachedWorker* worker, int32_t rank, SteadyTime now);
  // OK if the worker's checkpoint is the group's. If the worker's checkpoint outvotes the group's,
  // drops the workers that hold the group's, and returns OK.
  absl::Status CheckFingerprint(const AttachedWorker& worker, const std::string& fingerprint,
                                SteadyTime now);
  // OK if the worker has loaded what its rank needs, from the group's checkpoint.
  absl::Status CheckLoaded(const AttachedWorker& worker, const LoadedModel& loaded, SteadyTime now);
  // Frees the place of a worker that was removed from the registry; ends the epoch if the worker
  // was in it.
  void Vacate(const AttachedWorker& worker, const std::string& reason, SteadyTime now);
  // Drops workers that have loaded nothing for load_stall_timeout.
  void DropStalledLoaders(SteadyTime now);
  // Begins the next epoch if all ranks have loaded, agree about the weights and have memory for the
  // KV cache, unless the retry delay has not passed.
  void MaybeBeginEpoch(SteadyTime now);
  // Tells all ranks to join a new epoch.
  void BeginEpoch(SteadyTime now);
  // Whether ranks that read the same part of the model have read the same bytes. If two of them
  // have not, drops the worker that attached later, and returns false.
  bool CheckCopies(SteadyTime now);
  // The number of KV blocks for which every rank has memory; RESOURCE_EXHAUSTED if one sequence of
  // max_model_len tokens would not fit. REQUIRES: every place is filled.
  absl::StatusOr<int32_t> CountBlocks() const;
  void OnAllJoined(SteadyTime now);
  // Ends the epoch: its workers keep their places and weights, and the next epoch is scheduled.
  // Nothing if no epoch has begun.
  void EndEpoch(const std::string& reason, SteadyTime now);
  // Whether every place is filled by a worker in this state.
  bool AllAre(WorkerState state) const;
  // The digests of all ranks, [n_ranks]. REQUIRES: every place is filled.
  std::vector<WeightDigests> RankDigests() const;
  // The rank that sends the results of steps: tensor rank 0 of the last stage.
  int32_t answering_rank() const { return options_.n_ranks() - options_.tp_size(); }
  // For people: which ranks are suspect.
  std::string DescribeSuspects() const;
  // For people: how many workers are attached and have loaded, and the last trouble.
  std::string DescribeProgress() const;

  const ClusterOptions& options_;
  WorkerRegistry* const registry_;
  const std::function<std::string()> make_secret_;
  std::vector<GroupEvent> events_;

  // Places.
  std::vector<AttachedWorker*> ranks_;  // [n_ranks], null for a free place
  GroupState state_ = GroupState::kWaitingForWorkers;
  std::string detail_;  // for people: the last trouble; empty since a group has formed
  WeightAgreement weights_;

  // The epoch.
  int64_t epoch_ = 0;
  GroupLimits limits_;     // of the current epoch, with its number of KV blocks
  SteadyTime join_begin_;  // when the current epoch began
  SteadyTime next_join_ = SteadyTime::InfinitePast();  // the next epoch begins no sooner
  // Failed joins since a group last formed or a worker was placed.
  int32_t n_failed_joins_ = 0;
  StepWatch step_watch_;
};

}  // namespace bora
