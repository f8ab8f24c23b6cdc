// The attached workers: for each its stream, its hello, the time of its last message, and its place
// in a group.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/log_rate.h"
#include "coordinator/api/server_snapshot.h"
#include "coordinator/cluster/cluster_options.h"
#include "coordinator/cluster/worker_stream.h"
#include "model/protocol/peer_silence.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

struct AttachedWorker {
  std::shared_ptr<WorkerStream> stream;
  Hello hello;
  int64_t worker_id = 0;

  SteadyTime last_heard;  // when the last message was handled
  PeerSilence silence;    // how long the worker has been silent while this process listened
  bool suspect = false;   // silent for longer than suspect_timeout

  int32_t rank = -1;  // its place in a group; -1 for a spare
  WorkerState state = WorkerState::kSpare;

  // While the worker loads.
  int64_t loaded_bytes = 0;  // the most bytes that it has reported
  SteadyTime last_progress;  // when it reported them
  LoadProgress load_bytes;   // its last report
  double load_progress = 0;  // [0, 1]
  // What the worker has loaded; empty until then.
  LoadedModel loaded;
};

// The worker's name in messages: "worker 3 on gpu-7".
std::string DescribeWorker(const AttachedWorker& worker);

// Owned by the engine thread; no clock, thread or I/O of its own.
class WorkerRegistry {
 public:
  // `options` outlives the registry.
  explicit WorkerRegistry(const ClusterOptions& options) : options_(options) {}

  // Registers a worker as a spare and sends it the welcome. A worker is refused if it is of another
  // build, exchanges data by another library than the others, or if there are too many spares: then
  // Attach closes its stream with the reason and returns null. The pointer is valid until Remove or
  // CloseAll.
  AttachedWorker* Attach(std::shared_ptr<WorkerStream> stream, const Hello& hello, SteadyTime now);
  // The worker with this stream; null unless it is attached.
  AttachedWorker* Find(const WorkerStream* stream) const;
  // Notes that a message of the worker has come.
  void Hear(AttachedWorker* worker, SteadyTime now);
  // Marks silent workers as suspect and returns those that have been silent for longer than
  // heartbeat_timeout.
  std::vector<AttachedWorker*> FindLost(SteadyTime now);
  // Sends a heartbeat to every worker, if heartbeat_interval has passed since the last heartbeats.
  void SendHeartbeats(SteadyTime now);
  // Removes the worker, whose stream is closed or has ended for this reason, and logs it. The
  // caller gets the worker's data. REQUIRES: the worker is attached.
  std::unique_ptr<AttachedWorker> Remove(AttachedWorker* worker, const std::string& reason);
  // Closes every stream with UNAVAILABLE and the reason, and removes all workers.
  void CloseAll(const std::string& reason);

  const std::vector<std::unique_ptr<AttachedWorker>>& workers() const { return workers_; }

 private:
  // OK if the worker may be attached.
  absl::Status CheckHello(const Hello& hello) const;
  // OK if the worker can exchange data with the attached workers.
  absl::Status CheckCollectives(const Hello& hello) const;

  const ClusterOptions& options_;
  LogRate refusal_lines_{absl::Milliseconds(200)};  // of lines about refused workers
  std::vector<std::unique_ptr<AttachedWorker>> workers_;
  int64_t next_worker_id_ = 1;
  SteadyTime next_heartbeat_ = SteadyTime::InfinitePast();
};

}  // namespace bora
