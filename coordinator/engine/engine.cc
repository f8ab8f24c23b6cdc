#include "coordinator/engine/engine.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/engine/live_request.h"

namespace bora {
namespace {

// How often deadlines, heartbeats and the snapshot are looked at: while there are requests, and
// while there are none.
constexpr absl::Duration kBusyTick = absl::Milliseconds(50);
constexpr absl::Duration kIdleTick = absl::Milliseconds(125);
// How long before the workers are through with their plans they get the next: a part of the
// predicted time, which it may be wrong by, and what a plan needs to be made and sent. Who arrives
// until then is in it.
constexpr double kPlanAheadShare = 0.25;
constexpr absl::Duration kPlanAheadMin = absl::Milliseconds(1);

std::string RandomSecret() {
  std::random_device device;  // the kernel's generator
  std::string secret(32, '\0');
  for (size_t i = 0; i < secret.size(); i += sizeof(uint32_t)) {
    const uint32_t word = device();
    for (size_t b = 0; b < sizeof(word); ++b) secret[i + b] = static_cast<char>(word >> (8 * b));
  }
  return secret;
}

ApiError Unavailable(const char* reason, std::string message, absl::Duration retry_delay) {
  ApiError error;
  error.code = absl::StatusCode::kUnavailable;
  error.reason = reason;
  error.message = std::move(message);
  error.retry_delay = retry_delay;
  return error;
}

}  // namespace

Engine::Engine(EngineOptions options, const Tokenizer& tokenizer,
               std::function<void(bool)> on_serving_changed)
    : options_(std::move(options)),
      tokenizer_(tokenizer),
      on_serving_changed_(std::move(on_serving_changed)),
      // What is pushed is bounded elsewhere: sequences by max_num_queued_reqs and slots, messages
      // of each worker by its WorkerInbox.
      mailbox_(std::numeric_limits<size_t>::max()),
      places_(
          options_.max_num_queued_reqs,
          [this](absl::string_view tenant) { return options_.tenant_weights.contains(tenant); }),
      retry_delay_us_(absl::ToInt64Microseconds(absl::Seconds(1))),
      cluster_(options_.cluster, this, RandomSecret),
      now_(options_.clock()),
      last_finish_(now_) {
  UpdateSnapshot();
}

Engine::~Engine() { Stop(); }

void Engine::Start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Run(); });
}

void Engine::Stop() {
  // In this order: what the thread finds in the mailbox when it stops is all that there will be.
  mailbox_.Close();
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

std::variant<uint64_t, ApiError> Engine::Submit(RequestSpec spec,
                                                std::shared_ptr<RequestObserver> observer) {
  if (!accepting_) return RefusalWhileNotServing();
  const int32_t n_sequences = spec.n_candidates;
  const QueuePlaces::Answer place = places_.Take(spec.tenant, n_sequences);
  if (!place.taken) {
    ApiError error =
        QueueFull("generation", "sequences", place.n_waiting, options_.max_num_queued_reqs);
    const int32_t n_missing =
        std::max(1, place.n_waiting + n_sequences - options_.max_num_queued_reqs);
    error.retry_delay =
        std::min(kRetryDelayMax,
                 n_missing * absl::Microseconds(retry_delay_us_.load(std::memory_order_relaxed)));
    return error;
  }
  const uint64_t handle = next_handle_.fetch_add(n_sequences);
  if (!mailbox_.PushUnbounded(
          SubmitEvent{handle, std::move(spec), std::move(observer), place.account})) {
    places_.Give(place.account, n_sequences);
    return Unavailable(reason::kDraining, "the server is shutting down", absl::Seconds(1));
  }
  return handle;
}

void Engine::Cancel(uint64_t handle) { mailbox_.PushUnbounded(CancelEvent{handle}); }

void Engine::Abort(uint64_t handle, ApiError error) {
  mailbox_.PushUnbounded(AbortEvent{handle, std::move(error)});
}

void Engine::Resume(uint64_t handle) { mailbox_.PushUnbounded(ResumeEvent{handle}); }

void Engine::Drain(SteadyTime deadline, std::function<void()> on_drained) {
  drain_asked_ = true;
  accepting_ = false;
  mailbox_.PushUnbounded(DrainEvent{deadline, std::move(on_drained)});
}

void Engine::OnWorkerAttached(std::shared_ptr<WorkerLink> link, Hello hello) {
  mailbox_.PushUnbounded(AttachedEvent{std::move(link), std::move(hello)});
}

void Engine::OnWorkerMessage(std::shared_ptr<WorkerLink> link, WorkerMessage message,
                             std::shared_ptr<void> receipt) {
  mailbox_.PushUnbounded(MessageEvent{std::move(link), std::move(message), std::move(receipt)});
}

void Engine::OnWorkerGone(std::shared_ptr<WorkerLink> link, std::string reason) {
  mailbox_.PushUnbounded(GoneEvent{std::move(link), std::move(reason)});
}

ServerSnapshot Engine::Snapshot() const {
  absl::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

ApiError Engine::RefusalWhileNotServing() const {
  if (drain_asked_ || stopping_) {
    return Unavailable(reason::kDraining, "the server is shutting down", absl::Seconds(1));
  }
  const ServerSnapshot snapshot = Snapshot();
  ApiError error = Unavailable(reason::kNotReady,
                               absl::StrCat("the workers are not ready: ", snapshot.group_detail),
                               absl::Seconds(1));
  error.metadata["detail"] = snapshot.group_detail;
  return error;
}

void Engine::Run() {
  while (!stopping_) {
    n_loops_.fetch_add(1, std::memory_order_relaxed);
    const absl::Duration pause = std::min(next_tick_, next_plan_) - options_.clock();
    std::vector<Event> events = mailbox_.DrainUntil(SteadyNow() + pause);
    const SteadyTime last = std::exchange(now_, options_.clock());
    // Also while the coordinator itself was at work between a result and the next plan.
    if (scheduler_ != nullptr && scheduler_->n_in_flight() > 0) totals_.busy_total += now_ - last;
    for (Event& event : events) Handle(std::move(event));
    if (now_ >= next_tick_) {
      next_tick_ = now_ + (requests_.empty() ? kIdleTick : kBusyTick);
      cluster_.Tick(now_, PredictedStep());
      ExpireDeadlines();
      UpdateRetryDelay();
      UpdateSnapshot();
    }
    if (cluster_.all_heard() != all_heard_) {
      all_heard_ = cluster_.all_heard();
      UpdateServing();
    }
    PlanSteps();
    CheckDrained();
  }
  now_ = options_.clock();
  FailAll(Unavailable(reason::kDraining, "the server is shutting down", absl::Seconds(1)));
  scheduler_.reset();
  for (Event& event : mailbox_.DrainUntil(SteadyTime::InfinitePast())) {
    if (auto* submit = std::get_if<SubmitEvent>(&event)) {
      HandleSubmit(std::move(*submit));  // refuses it
    } else if (auto* attached = std::get_if<AttachedEvent>(&event)) {
      cluster_.OnAttached(std::move(attached->link), attached->hello, now_);
    }
  }
  cluster_.CloseAll("the coordinator is shutting down");
  UpdateServing();
}

void Engine::Handle(Event event) {
  if (auto* submit = std::get_if<SubmitEvent>(&event)) {
    HandleSubmit(std::move(*submit));
  } else if (auto* cancel = std::get_if<CancelEvent>(&event)) {
    Forget(cancel->handle);
  } else if (auto* abort = std::get_if<AbortEvent>(&event)) {
    Fail(abort->handle, std::move(abort->error));
  } else if (auto* resume = std::get_if<ResumeEvent>(&event)) {
    const auto it = requests_.find(resume->handle);
    if (it != requests_.end()) SetHeld(*it->second, false);
  } else if (auto* drain = std::get_if<DrainEvent>(&event)) {
    HandleDrain(std::move(*drain));
  } else if (auto* attached = std::get_if<AttachedEvent>(&event)) {
    cluster_.OnAttached(std::move(attached->link), attached->hello, now_);
  } else if (auto* message = std::get_if<MessageEvent>(&event)) {
    cluster_.OnMessage(message->link.get(), std::move(message->message), now_);
  } else if (auto* gone = std::get_if<GoneEvent>(&event)) {
    cluster_.OnGone(gone->link.get(), gone->reason, now_);
  }
}

void Engine::HandleDrain(DrainEvent event) {
  drain_deadline_ = event.deadline;
  on_drained_ = std::move(event.on_drained);
  UpdateServing();
}

void Engine::PlanSteps() {
  next_plan_ = SteadyTime::InfiniteFuture();
  while (scheduler_ != nullptr && cluster_.serving()) {
    if (scheduler_->stages_full()) {
      const absl::Duration predicted = absl::Microseconds(scheduler_->oldest_plan_us());
      const SteadyTime due = oldest_plan_begin_ + (1 - kPlanAheadShare) * predicted - kPlanAheadMin;
      if (now_ < due) {
        next_plan_ = due;
        return;
      }
    }
    if (scheduler_->n_in_flight() == 0) oldest_plan_begin_ = now_;
    scheduler_->AdvanceTo(absl::ToInt64Microseconds(now_.since_beginning()));
    const absl::optional<StepPlan> plan = scheduler_->PlanStep();
    if (!plan.has_value()) return;
    plan_times_.push_back(now_);
    cluster_.Broadcast(*plan, now_);
    if (calibration_.has_value()) continue;
    for (const Admission& admission : scheduler_->newly_admitted()) {
      LiveRequest* request = sequences_.at(admission.handle);
      if (admission.again) continue;
      --request->n_places;
      places_.Give(request->account, 1);
      if (request->running) continue;  // another candidate
      request->running = true;
      request->first_step = now_;
      request->n_cached_prompt_tokens = admission.n_cached_tokens;
      totals_.n_cached_prompt_tokens_total += admission.n_cached_tokens;
    }
    for (const StepRow& row : plan->rows) {
      if (!row.use_last_sampled) totals_.n_prompt_tokens_total += row.n_tokens;
    }
  }
}

void Engine::LimitStageTimes(StepResult* result) {
  if (plan_times_.empty()) return;
  const int64_t us_max = absl::ToInt64Microseconds(now_ - plan_times_.front());
  plan_times_.pop_front();
  for (int64_t& us : result->stage_us)
    us = std::clamp<int64_t>(us, 0, std::max<int64_t>(us_max, 0));
}

absl::Status Engine::OnStepResult(StepResult result) {
  LimitStageTimes(&result);
  oldest_plan_begin_ = now_;
  if (totals_.stage_compute_total.size() < result.stage_us.size()) {
    totals_.stage_compute_total.resize(result.stage_us.size());
  }
  for (size_t stage = 0; stage < result.stage_us.size(); ++stage) {
    totals_.stage_compute_total[stage] += absl::Microseconds(result.stage_us[stage]);
  }
  auto progress = scheduler_->CompleteStep(std::move(result));
  if (!progress.ok()) return progress.status();
  if (!calibration_.has_value()) ++totals_.n_steps_total;
  for (SequenceProgress& item : *progress) Deliver(std::move(item));
  return absl::OkStatus();
}

void Engine::Calibrate() {
  if (!calibrating_.empty()) return;
  const double elapsed_us = absl::ToDoubleMicroseconds(now_ - calibration_begin_);
  std::vector<SequenceSpec> round =
      calibration_->NextRound(scheduler_->cost_model(), elapsed_us, calibration_handles_);
  if (round.empty()) {
    const StepCostModel& model = scheduler_->cost_model();
    LogInfo("calibrated", {{"steps", model.n_observations()},
                           {"ms", elapsed_us / 1e3},
                           {"decode_step_ms", model.PredictDecodeStep(1) / 1e3},
                           {"prompt_token_us", scheduler_->PromptTokenUs()}});
    scheduler_->ForgetPredictionErrors();
    calibration_.reset();
    UpdateServing();
    return;
  }
  calibration_handles_ += round.size();
  for (SequenceSpec& spec : round) {
    calibrating_[spec.handle] = spec.max_tokens;
    scheduler_->Add(std::move(spec));
  }
}

void Engine::OnGroupFormed(int64_t epoch, const GroupLimits& limits) {
  plan_times_.clear();
  SchedulerOptions options;
  options.limits = limits;
  options.epoch = epoch;
  options.n_stages = cluster_.pp_size();
  options.run_ahead = options_.run_ahead;
  options.tenant_weights = options_.tenant_weights;
  options.step_time_budget_us = absl::ToDoubleMicroseconds(options_.step_time_budget);
  scheduler_ = std::make_unique<Scheduler>(options);
  if (learnt_cost_model_.has_value()) {
    scheduler_->set_cost_model(*std::exchange(learnt_cost_model_, std::nullopt));
  } else if (options_.calibration_budget > absl::ZeroDuration()) {
    calibration_.emplace(limits, absl::ToDoubleMicroseconds(options_.calibration_budget));
    calibration_begin_ = now_;
    LogInfo("calibrating",
            {{"budget_ms", absl::ToDoubleMilliseconds(options_.calibration_budget)}});
    Calibrate();
  }
  UpdateServing();
}

void Engine::OnGroupLost(const std::string& detail) {
  // Requests are kept in no step: nothing of the old epoch is waited for.
  totals_.n_preemptions_total += scheduler_ == nullptr ? 0 : scheduler_->n_preemptions();
  if (scheduler_ != nullptr && !calibration_.has_value()) {
    learnt_cost_model_ = scheduler_->cost_model();
  }
  scheduler_.reset();
  calibration_.reset();
  calibrating_.clear();
  UpdateServing();
  ApiError error = Unavailable(reason::kWorkerLost, absl::StrCat("the workers were lost: ", detail),
                               absl::Seconds(1));
  error.metadata["detail"] = detail;
  FailAll(error);
}

void Engine::UpdateServing() {
  const bool serving = scheduler_ != nullptr && !calibration_.has_value() && cluster_.all_heard() &&
                       !drain_asked_ && !stopping_;
  accepting_ = serving;
  if (serving != announced_serving_) {
    announced_serving_ = serving;
    on_serving_changed_(serving);
  }
  UpdateSnapshot();
}

absl::Duration Engine::PredictedStep() const {
  if (scheduler_ == nullptr) return absl::ZeroDuration();
  return cluster_.pp_size() * absl::Microseconds(scheduler_->oldest_plan_us());
}

void Engine::UpdateRetryDelay() {
  if (scheduler_ == nullptr) return;
  const double us = scheduler_->PredictPlaceUs();
  if (us <= 0) return;
  const absl::Duration delay = std::clamp(absl::Microseconds(us), kRetryDelayMin, kRetryDelayMax);
  retry_delay_us_.store(absl::ToInt64Microseconds(delay), std::memory_order_relaxed);
}

void Engine::UpdateSnapshot() {
  ServerSnapshot snapshot;
  snapshot.time = now_;
  cluster_.FillSnapshot(&snapshot);
  snapshot.draining = drain_asked_;
  if (calibration_.has_value()) {
    snapshot.group_state = GroupState::kJoining;  // it does not serve yet
    snapshot.group_detail = "calibrating";
  }
  snapshot.load = totals_;
  if (scheduler_ != nullptr) {
    snapshot.load.n_running = scheduler_->n_running();
    snapshot.load.n_waiting = scheduler_->n_waiting();
    snapshot.load.n_waiting_prompt_tokens = scheduler_->n_waiting_prompt_tokens();
    snapshot.load.n_steps_in_flight = scheduler_->n_in_flight();
    snapshot.load.n_blocks = scheduler_->blocks().n_blocks();
    snapshot.load.n_blocks_used = scheduler_->blocks().n_held();
    snapshot.load.n_blocks_cached = scheduler_->blocks().n_cached();
    snapshot.load.n_preemptions_total += scheduler_->n_preemptions();
    snapshot.load.step_time_error_p90 = scheduler_->cost_model().RelativeErrorP90();
  }
  absl::MutexLock lock(&snapshot_mutex_);
  snapshot_ = std::move(snapshot);
}

void Engine::CheckDrained() {
  if (on_drained_ == nullptr) return;
  if (now_ >= drain_deadline_) {
    FailAll(Unavailable(reason::kDraining, "the server shut down before the request ended",
                        absl::Seconds(1)));
  }
  if (!requests_.empty()) return;
  const std::function<void()> on_drained = std::exchange(on_drained_, nullptr);
  on_drained();
}

}  // namespace bora
