// All attached workers: receives their messages, watches that they send heartbeats, and passes
// their messages to the group that they belong to. Today there is one group; several groups would
// share the registry.
//
// A worker is lost when its stream has ended, or after heartbeat_timeout without a message from it.
// After suspect_timeout it is suspect: the epoch goes on, but no new request should be accepted
// until the worker is heard again.
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
// and handles the events of the group (TakeEvents).
class Cluster {
 public:
  // `make_secret` returns 32 random bytes, the secret of a new epoch.
  Cluster(ClusterOptions options, std::function<std::string()> make_secret);

  // A worker has authenticated and sent its hello: refuses it, or gives it a place or makes it a
  // spare.
  void OnAttached(std::shared_ptr<WorkerStream> stream, const Hello& hello, SteadyTime now);
  // A worker has sent a message. Ignored unless the stream is an attached worker's. A message that
  // breaks the protocol drops the worker.
  void OnMessage(const WorkerStream* stream, WorkerMessage message, SteadyTime now);
  // A stream has ended by itself. Ignored unless it is an attached worker's.
  void OnGone(const WorkerStream* stream, const std::string& reason, SteadyTime now);
  // Drops workers that are lost, ends loads, joins and steps that take too long, and sends
  // heartbeats. predicted_step: predicted time of the oldest plan in flight from the first stage to
  // the last; zero if unknown. REQUIRES: called at least every heartbeat_interval.
  void Tick(SteadyTime now, absl::Duration predicted_step = absl::ZeroDuration());

  // Sends a plan to every rank of the group. REQUIRES: serving(), and the plan is of this epoch.
  void Broadcast(const std::shared_ptr<const StepPlan>& plan, SteadyTime now);
  // Drops the worker that has sent the result of the last StepDone, because the result does not fit
  // its plan. That ends the epoch.
  void RejectStepResult(const absl::Status& reason, SteadyTime now);
  // Closes every stream and forgets all workers. The workers keep their weights and wait for a
  // coordinator.
  void CloseAll(const std::string& reason);

  // The events since the last call, in the order in which they happened.
  std::vector<GroupEvent> TakeEvents() { return group_.TakeEvents(); }

  // Whether the group has formed and plans may be sent.
  bool serving() const { return group_.serving(); }
  // Whether no rank of the group is suspect.
  bool all_heard() const { return group_.all_heard(); }
  // The current epoch, or the last one; 0 before the first.
  int64_t epoch() const { return group_.epoch(); }
  // Fingerprint of the checkpoint that every worker must have; empty until known.
  const std::string& fingerprint() const { return group_.fingerprint(); }
  // Number of pipeline stages.
  int32_t pp_size() const { return options_.pp_size(); }
  // Fills the snapshot's fields about the group and all attached workers.
  void FillSnapshot(ServerSnapshot* snapshot) const;

 private:
  const ClusterOptions options_;
  WorkerRegistry registry_;
  WorkerGroup group_;
};

}  // namespace bora
