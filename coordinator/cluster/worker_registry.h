// The workers that are attached, each with what it has said of itself and whether it is heard.
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

  // Whether it is heard. A suspect worker has been silent for longer than suspect_timeout.
  SteadyTime last_heard;
  PeerSilence silence;
  bool suspect = false;

  // Its place in a group: a rank, or -1 for a spare.
  int32_t rank = -1;
  WorkerState state = WorkerState::kSpare;

  // While it loads: the most bytes that it has reported and when, and its last report.
  int64_t loaded_bytes = 0;
  SteadyTime last_progress;
  LoadProgress load_bytes;
  double load_progress = 0;  // [0, 1]
  // Once it has loaded.
  LoadedModel loaded;
};

// "worker 3 on gpu-7"
std::string DescribeWorker(const AttachedWorker& worker);

// Owned by the engine thread; no clock, thread or I/O of its own.
class WorkerRegistry {
 public:
  // `options` outlives the registry.
  explicit WorkerRegistry(const ClusterOptions& options) : options_(options) {}

  // Takes a worker in and welcomes it. Null if it is refused (another build, a way of exchanging
  // data that the others do not have, too many spares): then its stream has been closed with the
  // reason.
  AttachedWorker* Attach(std::shared_ptr<WorkerStream> stream, const Hello& hello, SteadyTime now);
  // Null for a stream that is not, or no longer, an attached worker's.
  AttachedWorker* Find(const WorkerStream* stream) const;
  // Notes a sign of life.
  void Hear(AttachedWorker* worker, SteadyTime now);
  // Marks silent workers as suspect and returns those that have been silent for longer than
  // heartbeat_timeout.
  std::vector<AttachedWorker*> FindLost(SteadyTime now);
  // Sends a heartbeat to every worker if heartbeat_interval has passed since the last ones.
  void SendHeartbeats(SteadyTime now);
  // Forgets the worker, whose stream is closed or gone for this reason.
  std::unique_ptr<AttachedWorker> Remove(AttachedWorker* worker, const std::string& reason);
  // Closes every stream and forgets all workers.
  void CloseAll(const std::string& reason);

  const std::vector<std::unique_ptr<AttachedWorker>>& workers() const { return workers_; }

 private:
  absl::Status CheckHello(const Hello& hello) const;
  absl::Status CheckCollectives(const Hello& hello) const;

  const ClusterOptions& options_;
  LogRate refusal_lines_{absl::Milliseconds(200)};
  std::vector<std::unique_ptr<AttachedWorker>> workers_;
  int64_t next_worker_id_ = 1;
  SteadyTime next_heartbeat_ = SteadyTime::InfinitePast();
};

}  // namespace bora
