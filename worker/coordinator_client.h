// The worker's end of the worker stream: dials the coordinator, says hello, hands messages to the
// agent, and dials again when the stream ends.
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
  std::string address;     // host:port
  std::string credential;  // empty: the coordinator must have none
  // Between attempts: doubled from the first to the last.
  absl::Duration retry_delay_min = absl::Milliseconds(100);
  absl::Duration retry_delay_max = absl::Seconds(2);
  // A rank thread that stays in a step this long after it was told to leave ends the process.
  absl::Duration hang_limit = absl::Seconds(5);
  SteadyClock clock = SteadyNow;
};

// Thread-safe.
class CoordinatorClient {
 public:
  explicit CoordinatorClient(CoordinatorClientOptions options);
  ~CoordinatorClient();

  // The agent's SendFunction: writes on the connection if it is still the current one.
  bool Send(int64_t connection_id, const WorkerMessage& message);

  // Connects, serves and reconnects until Stop (then OK), or until the coordinator refuses this
  // worker for good: UNAUTHENTICATED or FAILED_PRECONDITION with its reason. Call once.
  absl::Status Run(WorkerAgent* agent);

  // Ends Run, whatever it is waiting for. From any thread, not from a signal handler.
  void Stop();

 private:
  using Stream = grpc::ClientReaderWriter<worker::v1alpha1::WorkerMessage,
                                          worker::v1alpha1::CoordinatorMessage>;

  // One connection from dial to end, and why it ended; never OK.
  absl::Status Serve(WorkerAgent* agent);
  // Both sides prove that they have the credential, then the worker says what it is. UNAVAILABLE:
  // the stream has ended, and its own status says why.
  absl::Status SayHello(const WorkerAgent& agent, WorkerAuth* auth, Stream* stream) const;
  absl::Status ReadMessages(WorkerAgent* agent, int64_t connection_id, Stream* stream);
  bool WriteLocked(int64_t connection_id, const WorkerMessage& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  void HeartbeatLoop(WorkerAgent* agent);
  // Ends the connection when the coordinator has been silent for too long.
  void CheckSilence(PeerSilence* silence, SteadyTime now);
  // Waits that long, or until Stop.
  void Pause(absl::Duration duration);
  bool stopping() const { return stopping_; }

  const CoordinatorClientOptions options_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> heard_{false};  // since the last look at the coordinator's silence
  std::atomic<int32_t> heartbeat_interval_ms_{250};
  std::atomic<int32_t> heartbeat_timeout_ms_{0};  // 0 = not connected

  mutable absl::Mutex mutex_;
  SteadyCondVar stopped_;
  int64_t connection_id_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // Held while a message is written, which may take until the call is cancelled: never with mutex_.
  absl::Mutex write_mutex_;
  int64_t stream_id_ ABSL_GUARDED_BY(write_mutex_) = 0;  // the connection of stream_
  Stream* stream_ ABSL_GUARDED_BY(write_mutex_) = nullptr;
  // Reused for every message.
  worker::v1alpha1::WorkerMessage outgoing_ ABSL_GUARDED_BY(write_mutex_);
};

// The local address from which this host reaches `address`: where other ranks can reach it too.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& address);

}  // namespace bora
