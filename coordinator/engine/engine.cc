#include "coordinator/engine/engine.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "base/check.h"
#include "coordinator/api/api_errors.h"

namespace bora {
namespace {

// The interval of Tick while there are requests, and while there are none.
constexpr absl::Duration kBusyTick = absl::Milliseconds(50);
constexpr absl::Duration kIdleTick = absl::Milliseconds(125);

// 32 random bytes, the secret of an epoch.
std::string RandomSecret() {
  std::random_device device;  // the kernel's generator
  std::string secret(32, '\0');
  for (size_t i = 0; i < secret.size(); i += sizeof(uint32_t)) {
    const uint32_t word = device();
    for (size_t b = 0; b < sizeof(word); ++b) secret[i + b] = static_cast<char>(word >> (8 * b));
  }
  return secret;
}

}  // namespace

Engine::Engine(EngineOptions options, const Tokenizer& tokenizer,
               std::function<void(bool)> on_serving_changed)
    : options_(std::move(options)),
      on_serving_changed_(std::move(on_serving_changed)),
      // The number of events is bounded elsewhere: sequences by max_num_queued_reqs and slots,
      // messages of each worker by its WorkerInbox.
      mailbox_(std::numeric_limits<size_t>::max()),
      quota_(options_.max_num_queued_reqs,
             [this](absl::string_view tenant) {
               return options_.group.tenant_weights.contains(tenant);
             }),
      retry_delay_(options_.clock()),
      cluster_(options_.cluster, RandomSecret),
      group_(options_.group, &cluster_, &stats_),
      requests_(tokenizer, options_.prefix_cache, &quota_, &retry_delay_, &stats_),
      now_(options_.clock()) {
  UpdateSnapshot();
}

Engine::~Engine() { Stop(); }

void Engine::Start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Run(); });
}

void Engine::Stop() {
  // The mailbox is closed first: then every event that was accepted is in it when RunLast reads it.
  mailbox_.Close();
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

// Any thread.

std::variant<uint64_t, ApiError> Engine::Submit(RequestSpec spec,
                                                std::shared_ptr<RequestObserver> observer) {
  if (!accepting_) return RefusalWhileNotServing();
  const int32_t n_sequences = spec.n_candidates;
  const QueueQuota::Answer answer = quota_.Take(spec.tenant, n_sequences);
  if (!answer.taken) {
    const int32_t limit = options_.max_num_queued_reqs;
    ApiError error = QueueFull("generation", "sequences", answer.n_waiting, limit);
    error.retry_delay =
        retry_delay_.ForVacancies(std::max(1, answer.n_waiting + n_sequences - limit));
    return error;
  }
  const uint64_t handle = next_handle_.fetch_add(n_sequences);
  // Pushing fails only if Stop has closed the mailbox meanwhile.
  if (!mailbox_.PushUnbounded(
          Submission{handle, std::move(spec), std::move(observer), answer.account})) {
    quota_.Give(answer.account, n_sequences);
    return Draining();
  }
  return handle;
}

void Engine::Cancel(uint64_t handle) { mailbox_.PushUnbounded(Cancellation{handle}); }

void Engine::Resume(uint64_t handle) { mailbox_.PushUnbounded(Resumption{handle}); }

void Engine::Drain(SteadyTime deadline, std::function<void()> on_drained) {
  drain_asked_ = true;
  accepting_ = false;
  mailbox_.PushUnbounded(DrainOrder{deadline, std::move(on_drained)});
}

void Engine::OnWorkerAttached(std::shared_ptr<WorkerStream> stream, Hello hello) {
  mailbox_.PushUnbounded(WorkerAttached{std::move(stream), std::move(hello)});
}

void Engine::OnWorkerMessage(std::shared_ptr<WorkerStream> stream, WorkerMessage message,
                             std::shared_ptr<void> receipt) {
  mailbox_.PushUnbounded(WorkerSaid{std::move(stream), std::move(message), std::move(receipt)});
}

void Engine::OnWorkerGone(std::shared_ptr<WorkerStream> stream, std::string reason) {
  mailbox_.PushUnbounded(WorkerGone{std::move(stream), std::move(reason)});
}

ServerSnapshot Engine::Snapshot() const {
  absl::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

ApiError Engine::RefusalWhileNotServing() const {
  if (drain_asked_ || stopping_) return Draining();
  return NotReady(Snapshot().group_detail);
}

// The engine thread.

void Engine::Run() {
  while (!stopping_) RunOnce();
  RunLast();
}

void Engine::RunOnce() {
  n_loops_.fetch_add(1, std::memory_order_relaxed);
  const absl::Duration pause = std::min(next_tick_, group_.next_plan()) - options_.clock();
  std::vector<Event> events = mailbox_.DrainUntil(SteadyNow() + pause);
  const SteadyTime last = std::exchange(now_, options_.clock());
  if (group_.has_steps_in_flight()) stats_.WasBusy(now_ - last);
  for (Event& event : events) {
    std::visit([this](auto& item) { Handle(std::move(item)); }, event);
  }
  if (now_ >= next_tick_) Tick();
  UpdateServing();
  requests_.OnAdmitted(group_.PlanSteps(now_), now_);
  CheckDrained();
}

void Engine::RunLast() {
  now_ = options_.clock();
  requests_.FailAll(Draining(), now_);
  group_.OnLost();
  for (Event& event : mailbox_.DrainUntil(SteadyTime::InfinitePast())) {
    if (auto* submission = std::get_if<Submission>(&event)) {
      requests_.Refuse(*submission, Draining());
    } else if (auto* attached = std::get_if<WorkerAttached>(&event)) {
      cluster_.OnAttached(std::move(attached->stream), attached->hello, now_);
    }
  }
  cluster_.CloseAll("the coordinator is shutting down");
  UpdateServing();
  UpdateSnapshot();
}

void Engine::Handle(Submission submission) {
  if (group_.takes_requests()) {
    requests_.Submit(std::move(submission), &group_.scheduler(), now_);
  } else {
    requests_.Refuse(submission, RefusalWhileNotServing());
  }
}

void Engine::Handle(const Cancellation& cancellation) {
  requests_.Cancel(cancellation.handle, now_);
}

void Engine::Handle(const Resumption& resumption) { requests_.Resume(resumption.handle); }

void Engine::Handle(DrainOrder order) {
  drain_deadline_ = order.deadline;
  on_drained_ = std::move(order.on_drained);
}

void Engine::Handle(WorkerAttached attached) {
  cluster_.OnAttached(std::move(attached.stream), attached.hello, now_);
  HandleGroupEvents();
}

void Engine::Handle(WorkerSaid said) {
  cluster_.OnMessage(said.stream.get(), std::move(said.message), now_);
  HandleGroupEvents();
}

void Engine::Handle(const WorkerGone& gone) {
  cluster_.OnGone(gone.stream.get(), gone.reason, now_);
  HandleGroupEvents();
}

void Engine::HandleGroupEvents() {
  std::vector<GroupEvent> events = cluster_.TakeEvents();
  for (GroupEvent& event : events) {
    std::visit([this](auto& item) { Handle(std::move(item)); }, event);
  }
}

void Engine::Handle(const GroupFormed& formed) {
  group_.OnFormed(formed, now_);
  UpdateServing();
  UpdateSnapshot();
}

void Engine::Handle(const GroupLost& lost) {
  // Every request of the lost epoch fails. They fail after UpdateServing, so that a client that
  // retries at once gets NOT_READY with the reason. The scheduler lives until they have failed.
  const std::unique_ptr<Scheduler> scheduler = group_.OnLost();
  UpdateServing();
  UpdateSnapshot();
  requests_.FailAll(WorkerLost(lost.detail), now_);
}

void Engine::Handle(StepDone done) {
  absl::StatusOr<std::vector<SequenceProgress>> progress =
      group_.OnStepDone(std::move(done.result), now_);
  if (!progress.ok()) {
    // The worker is dropped, which ends the epoch.
    cluster_.RejectStepResult(progress.status(), now_);
    HandleGroupEvents();
    return;
  }
  for (SequenceProgress& item : *progress) requests_.Deliver(std::move(item), now_);
}

void Engine::Tick() {
  next_tick_ = now_ + (requests_.empty() ? kIdleTick : kBusyTick);
  cluster_.Tick(now_, group_.PredictedStep());
  HandleGroupEvents();
  requests_.ExpireDeadlines(now_);
  retry_delay_.Predict(group_.PredictedVacancy());
  UpdateSnapshot();
}

void Engine::UpdateServing() {
  const bool serving =
      group_.takes_requests() && cluster_.all_heard() && !drain_asked_ && !stopping_;
  accepting_ = serving;
  if (serving == announced_serving_) return;
  announced_serving_ = serving;
  UpdateSnapshot();
  on_serving_changed_(serving);
}

void Engine::UpdateSnapshot() {
  ServerSnapshot snapshot;
  snapshot.time = now_;
  snapshot.draining = drain_asked_;
  snapshot.load = stats_.totals();
  cluster_.FillSnapshot(&snapshot);
  group_.FillSnapshot(&snapshot);
  absl::MutexLock lock(&snapshot_mutex_);
  snapshot_ = std::move(snapshot);
}

void Engine::CheckDrained() {
  if (on_drained_ == nullptr) return;
  if (now_ >= drain_deadline_) {
    requests_.FailAll(EndedByShutdown(), now_);
  }
  if (!requests_.empty()) return;
  const std::function<void()> on_drained = std::exchange(on_drained_, nullptr);
  on_drained();
}

}  // namespace bora
