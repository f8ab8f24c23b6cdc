// The engine: one thread that owns requests, scheduler and cluster. All other threads post events
// to its mailbox.
//
// The thread repeats: handle the events of the mailbox (requests, and messages of workers; the
// cluster turns the latter into events of the group) -> several times a second, check deadlines and
// heartbeats -> plan and send steps as long as the workers need more. The results of steps come
// back through the mailbox and go to the requests' observers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mailbox.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/generator.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/api/server_snapshot.h"
#include "coordinator/cluster/cluster.h"
#include "coordinator/cluster/worker_events.h"
#include "coordinator/engine/engine_stats.h"
#include "coordinator/engine/queue_quota.h"
#include "coordinator/engine/replica_group.h"
#include "coordinator/engine/request_table.h"
#include "coordinator/engine/retry_delay.h"
#include "model/protocol/worker_protocol.h"
#include "model/text/tokenizer.h"

namespace bora {

struct EngineOptions {
  ClusterOptions cluster;
  ReplicaGroupOptions group;
  // Sequences that may wait for a slot; a request has one for each candidate. See QueueQuota.
  int32_t max_num_queued_reqs = 1024;
  bool prefix_cache = true;       // whether requests may share computed KV blocks at all
  SteadyClock clock = SteadyNow;  // the engine's time; tests replace it
};

// Thread-safe. REQUIRES: Start is called once, and Stop after it; all other functions may be called
// by any thread.
class Engine final : public Generator, public WorkerEvents {
 public:
  // `tokenizer` outlives the engine. `on_serving_changed` is called on the engine thread with true
  // when the server begins to accept requests, and with false when it ceases to. The server does
  // not accept requests at first, nor while it drains.
  Engine(EngineOptions options, const Tokenizer& tokenizer,
         std::function<void(bool)> on_serving_changed);
  ~Engine() override;

  void Start();
  // Ends every request with UNAVAILABLE and DRAINING, closes the workers' streams and joins the
  // thread. The workers keep their weights and wait for the next coordinator. Later calls do
  // nothing.
  void Stop();

  // Implements Generator. Submit refuses a request with UNAVAILABLE and QUEUE_FULL, NOT_READY or
  // DRAINING. A request whose first token is predicted to come after its deadline is admitted, and
  // then ends at once with DEADLINE_EXCEEDED and DEADLINE_IN_QUEUE.
  std::variant<uint64_t, ApiError> Submit(RequestSpec spec,
                                          std::shared_ptr<RequestObserver> observer) override;
  void Cancel(uint64_t handle) override;
  void Resume(uint64_t handle) override;
  ServerSnapshot Snapshot() const override;

  // Refuses new requests from now on, while running and queued requests go on. Requests that are
  // left at `deadline` end with UNAVAILABLE and DRAINING. `on_drained` is called once, on the
  // engine thread, when no request is left.
  void Drain(SteadyTime deadline, std::function<void()> on_drained);

  // Implements WorkerEvents. A stream is used on the engine thread only, until the cluster has
  // closed the stream or has learnt that it is gone.
  void OnWorkerAttached(std::shared_ptr<WorkerStream> stream, Hello hello) override;
  void OnWorkerMessage(std::shared_ptr<WorkerStream> stream, WorkerMessage message,
                       std::shared_ptr<void> receipt) override;
  void OnWorkerGone(std::shared_ptr<WorkerStream> stream, std::string reason) override;

  // How many times the engine thread has run its loop: grows several times a second unless the
  // thread is stalled.
  int64_t loop_count() const { return n_loops_.load(std::memory_order_relaxed); }

 private:
  // The events of the mailbox, beside Submission.
  struct Cancellation {
    uint64_t handle;
  };
  struct Resumption {
    uint64_t handle;
  };
  struct DrainOrder {
    SteadyTime deadline;
    std::function<void()> on_drained;
  };
  struct WorkerAttached {
    std::shared_ptr<WorkerStream> stream;
    Hello hello;
  };
  struct WorkerSaid {
    std::shared_ptr<WorkerStream> stream;
    WorkerMessage message;
    std::shared_ptr<void> receipt;
  };
  struct WorkerGone {
    std::shared_ptr<WorkerStream> stream;
    std::string reason;
  };
  using Event = std::variant<Submission, Cancellation, Resumption, DrainOrder, WorkerAttached,
                             WorkerSaid, WorkerGone>;

  void Run();
  // Waits for events or for the next thing to do, and does everything that is due.
  void RunOnce();
  // Ends all requests and streams after the last RunOnce.
  void RunLast();
  // One overload for each type of event.
  void Handle(Submission submission);
  void Handle(const Cancellation& cancellation);
  void Handle(const Resumption& resumption);
  void Handle(DrainOrder order);
  void Handle(WorkerAttached attached);
  void Handle(WorkerSaid said);
  void Handle(const WorkerGone& gone);
  // Handles the cluster's events about the group. To be called after each call of the cluster.
  void HandleGroupEvents();
  void Handle(const GroupFormed& formed);
  void Handle(const GroupLost& lost);
  void Handle(StepDone done);
  // Checks deadlines and heartbeats, and takes a snapshot; every kBusyTick or kIdleTick.
  void Tick();
  // Ends a drain if no request is left or its deadline has passed.
  void CheckDrained();
  // Recomputes accepting_; if it has changed, calls on_serving_changed_.
  void UpdateServing();
  // Replaces the snapshot that Snapshot() returns.
  void UpdateSnapshot();
  // DRAINING or NOT_READY.
  ApiError RefusalWhileNotServing() const;

  const EngineOptions options_;
  const std::function<void(bool)> on_serving_changed_;

  // Thread-safe.
  Mailbox<Event> mailbox_;
  QueueQuota quota_;  // counts sequences from Submit until they have a slot or have ended
  RetryDelay retry_delay_;
  std::atomic<uint64_t> next_handle_{1};  // a request takes one handle for each candidate
  std::atomic<bool> stopping_{false};
  std::atomic<bool> accepting_{false};  // serving, not draining, and all workers are heard
  std::atomic<bool> drain_asked_{false};
  std::atomic<int64_t> n_loops_{0};
  mutable absl::Mutex snapshot_mutex_;
  ServerSnapshot snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);

  // Owned by the engine thread.
  std::thread thread_;
  EngineStats stats_;
  Cluster cluster_;
  ReplicaGroup group_;
  RequestTable requests_;
  bool announced_serving_ = false;  // the argument of the last on_serving_changed_ call
  SteadyTime drain_deadline_ = SteadyTime::InfiniteFuture();
  std::function<void()> on_drained_;  // set while a drain is under way
  SteadyTime now_;  // read once per RunOnce: everything in it happens at the same time
  SteadyTime next_tick_ = SteadyTime::InfinitePast();
};

}  // namespace bora
