// The worker's end of the stream between coordinator and worker: dials the coordinator, sends
// Hello, hands the coordinator's messages to the agent, and dials again when the stream ends.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/steady_cond_var.h"
#include "bora/worker/v1alpha1/worker_service.grpc.pb.h"
#include "model/protocol/peer_silence.h"
#include "model/protocol/worker_auth.h"
#include "model/protocol/worker_protocol.h"
#include "worker/agent.h"

namespace bora {

struct CoordinatorClientOptions {
  std::string address;     // of the coordinator, "host:port"
  std::string credential;  // shared with the coordinator; empty if it has none
  // Pause after a failed attempt: retry_delay_min at first, doubled each time up to
  // retry_delay_max.
  absl::Duration retry_delay_min = absl::Milliseconds(100);
  absl::Duration retry_delay_max = absl::Seconds(2);
  // If the rank thread has hung for this long (WorkerAgent::HasHung), the process exits.
  absl::Duration hang_limit = absl::Seconds(5);
  SteadyClock clock = SteadyNow;  // for tests
};

// Thread-safe. Run uses the calling thread for reading and one more for heartbeats.
class CoordinatorClient {
 public:
  explicit CoordinatorClient(CoordinatorClientOptions options);
  // REQUIRES: Run has returned or was never called.
  ~CoordinatorClient();

  // The agent's SendFunction: writes the message if `connection_id` is still the current
  // connection. Returns false if it is not, or the stream has ended. May block until the
  // coordinator reads.
  bool Send(int64_t connection_id, const WorkerMessage& message);

  // Connects, serves and reconnects until Stop, then returns OK; or until the coordinator refuses
  // this worker for good, then returns UNAUTHENTICATED or FAILED_PRECONDITION with the
  // coordinator's reason. Blocks. Exits the process if the rank thread has hung. `agent` must
  // outlive the call. To be called once.
  absl::Status Run(WorkerAgent* agent);

  // Ends Run, whatever it is waiting for. May be called by any thread, but not by a signal handler.
  void Stop();

 private:
  using Stream = grpc::ClientReaderWriter<worker::v1alpha1::WorkerMessage,
                                          worker::v1alpha1::CoordinatorMessage>;

  // Serves one connection from dialling to its end. Returns why it ended; never OK.
  absl::Status Serve(WorkerAgent* agent);
  // Both sides prove that they have the credential, then the worker sends Hello. UNAVAILABLE: the
  // stream has ended, and its own status says why; INVALID_ARGUMENT: the other side does not speak
  // the protocol; UNAUTHENTICATED: it does not have the credential.
  absl::Status SayHello(const WorkerAgent& agent, WorkerAuth* auth, Stream* stream) const;
  // Hands messages to the agent until the stream ends (UNAVAILABLE) or a message is an error.
  absl::Status ReadMessages(WorkerAgent* agent, int64_t connection_id, Stream* stream);
  // Send, with the lock held.
  bool WriteLocked(int64_t connection_id, const WorkerMessage& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  // The heartbeat thread: sends heartbeats, watches the rank thread and the coordinator's silence.
  void HeartbeatLoop(WorkerAgent* agent);
  // Ends the connection if the coordinator has been silent for heartbeat_timeout_ms_.
  void CheckSilence(PeerSilence* silence, SteadyTime now);
  // Waits for `duration`, or until Stop if that is earlier.
  void Pause(absl::Duration duration);
  bool stopping() const { return stopping_; }

  const CoordinatorClientOptions options_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> heard_{false};  // a message has come since the last CheckSilence
  // Between heartbeats of this side; the coordinator's Welcome sets it.
  std::atomic<int32_t> heartbeat_interval_ms_{250};
  // Longest silence of the coordinator, by its Welcome; until then a fixed one. 0: not connected.
  std::atomic<int32_t> heartbeat_timeout_ms_{0};

  mutable absl::Mutex mutex_;
  SteadyCondVar stopped_;                              // signalled by Stop
  int64_t connection_id_ ABSL_GUARDED_BY(mutex_) = 0;  // of the latest connection, counted from 1
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null: no call to cancel
  // Held while a message is written, which may take until the call is cancelled. So it is never
  // taken together with mutex_, which cancelling needs.
  absl::Mutex write_mutex_;
  int64_t stream_id_ ABSL_GUARDED_BY(write_mutex_) = 0;     // the connection of stream_
  Stream* stream_ ABSL_GUARDED_BY(write_mutex_) = nullptr;  // null: not to be written to
  // Reused for every message, so that its memory is reused, too.
  worker::v1alpha1::WorkerMessage outgoing_ ABSL_GUARDED_BY(write_mutex_);
};

// The local address, numeric and without a port, from which this host reaches `address`
// ("host:port"): other ranks can reach this host there, too. INVALID_ARGUMENT if `address` is
// malformed; UNAVAILABLE if its name does not resolve or there is no route. Blocks while the name
// is looked up.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& address);

}  // namespace bora
