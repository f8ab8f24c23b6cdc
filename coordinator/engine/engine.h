// The coordinator's one thread that owns requests, scheduler and cluster. All other threads post to
// its mailbox.
//
// Loop: drain the mailbox (requests; messages of workers, which go through the cluster and come
// back as events of the group) -> several times a second, deadlines and heartbeats -> plan steps as
// long as workers have use for them. Results come back through the mailbox and go to the requests'
// observers.
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
  int32_t max_num_queued_reqs = 1024;  // sequences: a request has one for each candidate
  bool prefix_cache = true;
  SteadyClock clock = SteadyNow;
};

// Thread-safe: Start once, Stop once; everything else from any thread in between.
class Engine final : public Generator, public WorkerEvents {
 public:
  // `tokenizer` outlives the engine. `on_serving_changed` is called on the engine thread whenever
  // the server begins or ceases to serve; it does not serve at first, nor while it drains.
  Engine(EngineOptions options, const Tokenizer& tokenizer,
         std::function<void(bool)> on_serving_changed);
  ~Engine() override;

  void Start();
  // Ends every request with UNAVAILABLE/DRAINING, closes the streams and joins the thread. Workers
  // keep their weights and wait for the next coordinator.
  void Stop();

  // Generator. Submit refuses with UNAVAILABLE and QUEUE_FULL, NOT_READY or DRAINING. An admitted
  // request whose first token is predicted to come after its deadline ends at once with
  // DEADLINE_EXCEEDED and DEADLINE_IN_QUEUE.
  std::variant<uint64_t, ApiError> Submit(RequestSpec spec,
                                          std::shared_ptr<RequestObserver> observer) override;
  void Cancel(uint64_t handle) override;
  void Resume(uint64_t handle) override;
  ServerSnapshot Snapshot() const override;

  // Nothing new is accepted, running and queued requests go on. `on_drained` is called once, on the
  // engine thread, when none is left; requests that are left at `deadline` end with
  // UNAVAILABLE/DRAINING.
  void Drain(SteadyTime deadline, std::function<void()> on_drained);

  // WorkerEvents. The cluster calls a stream on the engine thread until it has closed it or learnt
  // that it is gone.
  void OnWorkerAttached(std::shared_ptr<WorkerStream> stream, Hello hello) override;
  void OnWorkerMessage(std::shared_ptr<WorkerStream> stream, WorkerMessage message,
                       std::shared_ptr<void> receipt) override;
  void OnWorkerGone(std::shared_ptr<WorkerStream> stream, std::string reason) override;

  // Grows several times a second as long as the engine thread moves.
  int64_t loop_count() const { return n_loops_.load(std::memory_order_relaxed); }

 private:
  // The mailbox.
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
  void RunOnce();
  void RunLast();
  // One overload for each type of event.
  void Handle(Submission submission);
  void Handle(const Cancellation& cancellation);
  void Handle(const Resumption& resumption);
  void Handle(DrainOrder order);
  void Handle(WorkerAttached attached);
  void Handle(WorkerSaid said);
  void Handle(const WorkerGone& gone);
  // Acts on what has happened to the group since the last call.
  void HandleGroupEvents();
  void Handle(const GroupFormed& formed);
  void Handle(const GroupLost& lost);
  void Handle(StepDone done);
  // Deadlines, heartbeats, snapshot.
  void Tick();
  void CheckDrained();
  // Tells everybody whether requests are accepted, if that has changed.
  void UpdateServing();
  void UpdateSnapshot();
  ApiError RefusalWhileNotServing() const;

  const EngineOptions options_;
  const std::function<void(bool)> on_serving_changed_;

  // Thread-safe.
  Mailbox<Event> mailbox_;
  QueueQuota quota_;  // of sequences that are submitted and have not had a slot
  RetryDelay retry_delay_;
  std::atomic<uint64_t> next_handle_{1};
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
  bool announced_serving_ = false;
  SteadyTime drain_deadline_ = SteadyTime::InfiniteFuture();
  std::function<void()> on_drained_;
  SteadyTime now_;
  SteadyTime next_tick_ = SteadyTime::InfinitePast();
};

}  // namespace bora
