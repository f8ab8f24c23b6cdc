// All workers: takes what they say, watches that they are heard, and hands them to the group that
// they are in. Today there is one group; several would share the registry.
//
// A worker is lost when its stream is, or after heartbeat_timeout without a sign of life. Before
// that it is suspect: the epoch goes on, but nothing new should be accepted until it is heard
// again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/server_snapshot.h"
#include "coordinator/cluster/cluster_options.h"
#include "coordinator/cluster/group_event.h"
#include "coordinator/cluster/worker_group.h"
#include "coordinator/cluster/worker_registry.h"
#include "coordinator/cluster/worker_stream.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// Owned by the engine thread; no clock, thread or I/O of its own. After each call the owner takes
// what has happened to the group with TakeEvents.
class Cluster {
 public:
  // `make_secret` returns 32 random bytes.
  Cluster(ClusterOptions options, std::function<std::string()> make_secret);

  void OnAttached(std::shared_ptr<WorkerStream> stream, const Hello& hello, SteadyTime now);
  void OnMessage(const WorkerStream* stream, WorkerMessage message, SteadyTime now);
  void OnGone(const WorkerStream* stream, const std::string& reason, SteadyTime now);
  // Sends heartbeats, notices missing ones, ends what takes too long. REQUIRES: called at least
  // every heartbeat_interval. predicted_step: the time that the oldest plan in flight should take
  // from the first stage to the last; zero if it is unknown.
  void Tick(SteadyTime now, absl::Duration predicted_step = absl::ZeroDuration());

  // Sends a plan to every rank of the group. REQUIRES: serving(), and the plan is of this epoch.
  void Broadcast(const std::shared_ptr<const StepPlan>& plan, SteadyTime now);
  // The result of the last StepDone does not fit its plan: drops the worker that has said it.
  void RejectStepResult(const absl::Status& reason, SteadyTime now);
  // Closes every stream; workers keep their weights and wait for a coordinator.
  void CloseAll(const std::string& reason);

  // What has happened since the last call, in this order.
  std::vector<GroupEvent> TakeEvents() { return group_.TakeEvents(); }

  bool serving() const { return group_.serving(); }
  // Every rank is heard as often as it should be.
  bool all_heard() const { return group_.all_heard(); }
  int64_t epoch() const { return group_.epoch(); }
  // Of the checkpoint that every worker must have; empty until known.
  const std::string& fingerprint() const { return group_.fingerprint(); }
  int32_t pp_size() const { return options_.pp_size(); }
  // Fills the snapshot's part about group and workers.
  void FillSnapshot(ServerSnapshot* snapshot) const;

 private:
  const ClusterOptions options_;
  WorkerRegistry registry_;
  WorkerGroup group_;
};

}  // namespace bora
