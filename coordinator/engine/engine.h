// The coordinator's one thread that owns requests, scheduler and cluster. Everybody else posts to
// its mailbox.
//
// Loop: drain the mailbox -> cluster (who is there, which epoch) -> expire deadlines -> plan steps
// as long as workers have use for them -> broadcast; results come back through the mailbox and go
// to the requests' observers.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
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
#include "coordinator/engine/calibration.h"
#include "coordinator/engine/completion_text.h"
#include "coordinator/engine/queue_places.h"
#include "coordinator/scheduler/scheduler.h"
#include "model/protocol/worker_protocol.h"
#include "model/text/tokenizer.h"

namespace bora {

struct LiveRequest;

struct EngineOptions {
  ClusterOptions cluster;
  int32_t max_num_queued_reqs = 1024;  // sequences: a request has one for each candidate
  // > 0, by name; tenants that are not named have 1.
  absl::flat_hash_map<std::string, double> tenant_weights;
  bool prefix_cache = true;
  // Before it serves, the engine has the workers make steps for about this long, to learn what they
  // take. 0: it learns from requests alone.
  absl::Duration calibration_budget;
  bool run_ahead = true;            // plan before the last result is back
  absl::Duration step_time_budget;  // of steps with decode rows; 0: no limit
  SteadyClock clock = SteadyNow;
};

// Thread-safe: Start once, Stop once; everything else from any thread in between.
class Engine final : public Generator, public WorkerEvents, private ClusterObserver {
 public:
  // `tokenizer` outlives the engine. `on_serving_changed` is called on the engine thread whenever
  // the server begins or ceases to serve; it does not serve at first, nor while it drains.
  Engine(EngineOptions options, const Tokenizer& tokenizer,
         std::function<void(bool)> on_serving_changed);
  ~Engine() override;

  void Start();
  // Ends every request with UNAVAILABLE/DRAINING, closes the links and joins the thread. Workers
  // keep their weights and wait for the next coordinator.
  void Stop();

  // Admits a request to the queue and returns its handle, > 0; from then on `observer` hears from
  // it until it ends. Refused at once, and the observer never called: UNAVAILABLE with QUEUE_FULL,
  // NOT_READY or DRAINING. DEADLINE_EXCEEDED with DEADLINE_IN_QUEUE comes through the observer as
  // soon as the cost model says that there will be no token in time.
  std::variant<uint64_t, ApiError> Submit(RequestSpec spec,
                                          std::shared_ptr<RequestObserver> observer) override;
  // The client is gone: frees slot and blocks at the next step. The observer hears nothing more
  // than what is already under way. Unknown or ended handles are ignored.
  void Cancel(uint64_t handle) override;
  // Ends the request with the error; the observer's OnError is called.
  void Abort(uint64_t handle, ApiError error) override;
  // The reader has caught up after OnDelta said false.
  void Resume(uint64_t handle) override;

  // Nothing new is accepted, running and queued requests go on. `on_drained` is called once, on the
  // engine thread, when none is left; at `deadline` those that are left end with
  // UNAVAILABLE/DRAINING.
  void Drain(SteadyTime deadline, std::function<void()> on_drained);

  // The worker edge. The cluster calls a link on the engine thread until it has closed it or learnt
  // that it is gone.
  void OnWorkerAttached(std::shared_ptr<WorkerLink> link, Hello hello) override;
  void OnWorkerMessage(std::shared_ptr<WorkerLink> link, WorkerMessage message,
                       std::shared_ptr<void> receipt) override;
  void OnWorkerGone(std::shared_ptr<WorkerLink> link, std::string reason) override;

  // As old as a tick of the engine: 125 ms at most, 50 ms while there are requests.
  ServerSnapshot Snapshot() const override;

  // Grows several times a second as long as the engine thread moves.
  int64_t loop_count() const { return n_loops_.load(std::memory_order_relaxed); }

 private:
  struct SubmitEvent {
    uint64_t handle;
    RequestSpec spec;
    std::shared_ptr<RequestObserver> observer;
    std::string account;  // of its places in the queue
  };
  struct CancelEvent {
    uint64_t handle;
  };
  struct AbortEvent {
    uint64_t handle;
    ApiError error;
  };
  struct ResumeEvent {
    uint64_t handle;
  };
  struct DrainEvent {
    SteadyTime deadline;
    std::function<void()> on_drained;
  };
  struct AttachedEvent {
    std::shared_ptr<WorkerLink> link;
    Hello hello;
  };
  struct MessageEvent {
    std::shared_ptr<WorkerLink> link;
    WorkerMessage message;
    std::shared_ptr<void> receipt;
  };
  struct GoneEvent {
    std::shared_ptr<WorkerLink> link;
    std::string reason;
  };
  using Event = std::variant<SubmitEvent, CancelEvent, AbortEvent, ResumeEvent, DrainEvent,
                             AttachedEvent, MessageEvent, GoneEvent>;

  void Run();
  void Handle(Event event);
  void HandleSubmit(SubmitEvent event);
  void HandleDrain(DrainEvent event);
  void PlanSteps();
  void ExpireDeadlines();
  // The time until the first token that is too late for the request, microseconds: what the
  // predictions are usually wrong by is in its favour.
  double TooLateUs(const RequestSpec& spec, double prediction_error) const;
  void CheckDrained();
  SequenceSpec MakeSequence(const LiveRequest& request, int32_t candidate) const;
  // Takes the calibration one round further when the last one is over.
  void Calibrate();
  // Puts all candidates but the first into the queue.
  void Fork(LiveRequest* request);
  void SetHeld(const LiveRequest& request, bool held);
  // Takes one step's outcome for one candidate to its request's observer.
  void Deliver(SequenceProgress progress);
  // Decides whether the newest token ends the candidate; fills text and finish.
  void AppendToken(LiveRequest* request, const SampledToken& token, OutputDelta* delta);
  void FillFinish(const LiveRequest& request, int32_t candidate_idx, FinishInfo* finish) const;
  // After the delta with its finish; says whether it is the request's last.
  void EndCandidate(LiveRequest* request, OutputDelta* delta);
  // Forgets the request everywhere.
  void Forget(uint64_t handle);
  void Fail(uint64_t handle, ApiError error);
  void FailAll(const ApiError& error);
  void UpdateServing();
  void UpdateSnapshot();
  void UpdateRetryDelay();
  // Of the oldest plan in flight, through all stages; zero when nothing is known.
  absl::Duration PredictedStep() const;
  ApiError RefusalWhileNotServing() const;

  // What the workers say of the oldest plan's time becomes what can be: no stage took longer than
  // the coordinator has waited since it sent the plan.
  void LimitStageTimes(StepResult* result);

  // ClusterObserver, on the engine thread.
  void OnGroupFormed(int64_t epoch, const GroupLimits& limits) override;
  void OnGroupLost(const std::string& detail) override;
  absl::Status OnStepResult(StepResult result) override;

  const EngineOptions options_;
  const Tokenizer& tokenizer_;
  const std::function<void(bool)> on_serving_changed_;
  Mailbox<Event> mailbox_;
  std::thread thread_;
  QueuePlaces places_;  // of sequences that are submitted and have not had a slot

  std::atomic<uint64_t> next_handle_{1};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> accepting_{false};  // serving, not draining, and all workers are heard
  std::atomic<bool> drain_asked_{false};
  std::atomic<int64_t> n_loops_{0};
  std::atomic<int64_t> retry_delay_us_;  // for QUEUE_FULL: about how long until one place is free

  // Owned by the engine thread.
  Cluster cluster_;
  std::unique_ptr<Scheduler> scheduler_;  // of the current epoch; null while not serving
  absl::flat_hash_map<uint64_t, std::unique_ptr<LiveRequest>> requests_;
  absl::flat_hash_map<uint64_t, LiveRequest*> sequences_;  // of all candidates, by their handles
  std::optional<Calibration> calibration_;  // under way; then the engine does not serve
  SteadyTime calibration_begin_;
  absl::flat_hash_map<uint64_t, int32_t> calibrating_;  // tokens that its sequences lack, by handle
  std::optional<StepCostModel> learnt_cost_model_;      // of the last epoch
  // The next one of a calibration's sequences; far above those of requests.
  uint64_t calibration_handles_ = uint64_t{1} << 62;
  bool announced_serving_ = false;
  bool all_heard_ = true;  // when last looked at
  SteadyTime drain_deadline_ = SteadyTime::InfiniteFuture();
  std::function<void()> on_drained_;
  SteadyTime now_;
  SteadyTime next_tick_ = SteadyTime::InfinitePast();
  SteadyTime next_plan_ = SteadyTime::InfiniteFuture();  // not before, unless something happens
  // When each plan in flight was sent, oldest first.
  std::deque<SteadyTime> plan_times_;
  SteadyTime oldest_plan_begin_;  // when the oldest plan in flight was sent, or became the oldest
  SteadyTime last_finish_;
  LoadSnapshot totals_;

  mutable absl::Mutex snapshot_mutex_;
  ServerSnapshot snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);
};

}  // namespace bora
