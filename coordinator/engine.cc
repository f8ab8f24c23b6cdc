#include "coordinator/engine.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/log.h"

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
constexpr absl::Duration kRetryDelayMin = absl::Milliseconds(50);
constexpr absl::Duration kRetryDelayMax = absl::Seconds(10);

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

ApiError DeadlineError(bool running, int32_t n_output_tokens) {
  ApiError error;
  error.code = absl::StatusCode::kDeadlineExceeded;
  error.reason = running ? reason::kDeadlineInDecode : reason::kDeadlineInQueue;
  error.message = running ? absl::StrCat("the deadline passed after ", n_output_tokens, " tokens")
                          : "the deadline passed in the queue";
  if (running) error.metadata["outputTokenCount"] = absl::StrCat(n_output_tokens);
  return error;
}

ApiError PredictedDeadlineError(absl::Duration left, double first_token_us) {
  const int64_t left_ms = absl::ToInt64Milliseconds(left);
  const int64_t wait_ms = absl::ToInt64Milliseconds(absl::Microseconds(first_token_us));
  ApiError error;
  error.code = absl::StatusCode::kDeadlineExceeded;
  error.reason = reason::kDeadlineInQueue;
  error.message = absl::StrCat("the deadline is in ", left_ms,
                               " ms, the first token would come in about ", wait_ms, " ms");
  error.metadata["remainingMs"] = absl::StrCat(left_ms);
  error.metadata["predictedWaitMs"] = absl::StrCat(wait_ms);
  return error;
}

}  // namespace

// A request from its submission to its end. Owned by the engine thread. Candidate i is the
// scheduler's sequence of the handle i above the request's.
struct Engine::Request {
  struct Candidate {
    CompletionText text;
    int32_t n_output_tokens = 0;
    absl::Time first_token = absl::InfiniteFuture();
    absl::Time last_token;
    bool ended = false;
  };

  Request(uint64_t request_handle, RequestSpec request_spec,
          std::shared_ptr<RequestObserver> request_observer, const Tokenizer& tokenizer)
      : handle(request_handle),
        spec(std::move(request_spec)),
        observer(std::move(request_observer)),
        candidates(spec.n_candidates, Candidate{CompletionText(
                                          tokenizer, spec.prompt_tokens, spec.stop,
                                          spec.include_stop_in_output, spec.sampling.min_tokens)}) {
  }

  int32_t n_output_tokens() const {
    int32_t n = 0;
    for (const Candidate& candidate : candidates) n += candidate.n_output_tokens;
    return n;
  }

  const uint64_t handle;
  const RequestSpec spec;
  const std::shared_ptr<RequestObserver> observer;
  std::vector<Candidate> candidates;
  int32_t n_ended = 0;
  int32_t n_cached_prompt_tokens = 0;
  absl::Time first_step = absl::InfiniteFuture();
  bool running = false;
  bool forked = false;  // all candidates have sequences
};

Engine::Engine(EngineOptions options, const Tokenizer& tokenizer,
               std::function<void(bool)> on_serving_changed)
    : options_(std::move(options)),
      tokenizer_(tokenizer),
      on_serving_changed_(std::move(on_serving_changed)),
      // What is pushed is bounded elsewhere: requests by max_num_queued_reqs and slots, worker
      // messages by workers and steps in flight.
      mailbox_(std::numeric_limits<size_t>::max()),
      places_(options_.max_num_queued_reqs),
      retry_delay_us_(absl::ToInt64Microseconds(absl::Seconds(1))),
      cluster_(options_.cluster, this, RandomSecret),
      now_(absl::Now()),
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
  const QueuePlaces::Answer place = places_.Take(spec.tenant);
  if (!place.taken) {
    ApiError error =
        Unavailable(reason::kQueueFull,
                    absl::StrCat("the queue holds ", place.n_waiting, " requests, its limit is ",
                                 options_.max_num_queued_reqs),
                    absl::Microseconds(retry_delay_us_.load(std::memory_order_relaxed)));
    error.metadata["queueDepth"] = absl::StrCat(place.n_waiting);
    error.metadata["limit"] = absl::StrCat(options_.max_num_queued_reqs);
    return error;
  }
  const uint64_t handle = next_handle_.fetch_add(spec.n_candidates);
  const std::string tenant = spec.tenant;
  if (!mailbox_.PushUnbounded(SubmitEvent{handle, std::move(spec), std::move(observer)})) {
    places_.Give(tenant);
    return Unavailable(reason::kDraining, "the server is shutting down", absl::Seconds(1));
  }
  return handle;
}

void Engine::Cancel(uint64_t handle) { mailbox_.PushUnbounded(CancelEvent{handle}); }

void Engine::Abort(uint64_t handle, ApiError error) {
  mailbox_.PushUnbounded(AbortEvent{handle, std::move(error)});
}

void Engine::Resume(uint64_t handle) { mailbox_.PushUnbounded(ResumeEvent{handle}); }

void Engine::Drain(absl::Time deadline, std::function<void()> on_drained) {
  drain_asked_ = true;
  accepting_ = false;
  mailbox_.PushUnbounded(DrainEvent{deadline, std::move(on_drained)});
}

void Engine::OnWorkerAttached(std::shared_ptr<WorkerLink> link, Hello hello) {
  mailbox_.PushUnbounded(AttachedEvent{std::move(link), std::move(hello)});
}

void Engine::OnWorkerMessage(std::shared_ptr<WorkerLink> link, WorkerMessage message) {
  mailbox_.PushUnbounded(MessageEvent{std::move(link), std::move(message)});
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
    std::vector<Event> events = mailbox_.DrainUntil(std::min(next_tick_, next_plan_));
    const absl::Time last = std::exchange(now_, absl::Now());
    // Also while the coordinator itself was at work between a result and the next plan.
    if (scheduler_ != nullptr && scheduler_->n_in_flight() > 0) totals_.busy_total += now_ - last;
    for (Event& event : events) Handle(std::move(event));
    if (now_ >= next_tick_) {
      next_tick_ = now_ + (requests_.empty() ? kIdleTick : kBusyTick);
      cluster_.Tick(now_);
      ExpireDeadlines();
      UpdateRetryDelay();
      UpdateSnapshot();
    }
    PlanSteps();
    CheckDrained();
  }
  now_ = absl::Now();
  FailAll(Unavailable(reason::kDraining, "the server is shutting down", absl::Seconds(1)));
  scheduler_.reset();
  for (Event& event : mailbox_.DrainUntil(absl::InfinitePast())) {
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

void Engine::HandleSubmit(SubmitEvent event) {
  if (scheduler_ == nullptr || calibration_.has_value()) {
    places_.Give(event.spec.tenant);
    event.observer->OnError(RefusalWhileNotServing());
    return;
  }
  auto request = std::make_unique<Request>(event.handle, std::move(event.spec),
                                           std::move(event.observer), tokenizer_);
  SequenceSpec sequence = MakeSequence(*request, 0);
  if (request->spec.deadline != absl::InfiniteFuture()) {
    const double too_late_us =
        TooLateUs(request->spec, scheduler_->cost_model().RelativeErrorP90());
    const double first_token_us = scheduler_->PredictFirstTokenUs(sequence, too_late_us);
    if (first_token_us > too_late_us) {
      places_.Give(request->spec.tenant);
      request->observer->OnError(
          PredictedDeadlineError(request->spec.deadline - now_, first_token_us));
      ++totals_.n_finished_requests_total;
      return;
    }
  }
  scheduler_->Add(std::move(sequence));
  for (int32_t i = 0; i < request->spec.n_candidates; ++i) {
    sequences_.emplace(event.handle + i, request.get());
  }
  requests_.emplace(event.handle, std::move(request));
}

SequenceSpec Engine::MakeSequence(const Request& request, int32_t candidate) const {
  const RequestSpec& spec = request.spec;
  SequenceSpec sequence;
  sequence.handle = request.handle + candidate;
  sequence.prompt_tokens = spec.prompt_tokens;
  sequence.sampling = spec.sampling;
  sequence.sampling.seed += candidate;
  if (candidate > 0) sequence.sampling.n_prompt_logprobs = -1;
  sequence.max_tokens = spec.max_tokens;
  sequence.prefix_cache = options_.prefix_cache && spec.prefix_cache;
  sequence.cache_salt = spec.cache_salt;
  if (!sequence.prefix_cache && spec.n_candidates > 1) {
    // With each other and nobody else: no salt of a request is like this, which is not UTF-8.
    sequence.prefix_cache = true;
    sequence.cache_salt = absl::StrCat("\xff", request.handle);
  }
  sequence.priority = spec.priority;
  sequence.tenant = spec.tenant;
  sequence.arrival_us = absl::ToUnixMicros(spec.arrival);
  return sequence;
}

void Engine::Fork(Request* request) {
  request->forked = true;
  for (int32_t i = 1; i < request->spec.n_candidates; ++i) {
    scheduler_->Add(MakeSequence(*request, i));
  }
}

void Engine::SetHeld(const Request& request, bool held) {
  for (int32_t i = 0; i < request.spec.n_candidates; ++i) {
    scheduler_->SetHeld(request.handle + i, held);
  }
}

void Engine::HandleDrain(DrainEvent event) {
  drain_deadline_ = event.deadline;
  on_drained_ = std::move(event.on_drained);
  UpdateServing();
}

void Engine::PlanSteps() {
  next_plan_ = absl::InfiniteFuture();
  while (scheduler_ != nullptr && cluster_.serving()) {
    if (scheduler_->stages_full()) {
      const absl::Duration predicted = absl::Microseconds(scheduler_->oldest_plan_us());
      const absl::Time due = oldest_plan_begin_ + (1 - kPlanAheadShare) * predicted - kPlanAheadMin;
      if (now_ < due) {
        next_plan_ = due;
        return;
      }
    }
    if (scheduler_->n_in_flight() == 0) oldest_plan_begin_ = now_;
    const absl::optional<StepPlan> plan = scheduler_->PlanStep();
    if (!plan.has_value()) return;
    cluster_.Broadcast(*plan, now_);
    if (calibration_.has_value()) continue;
    for (const Admission& admission : scheduler_->newly_admitted()) {
      Request* request = sequences_.at(admission.handle);
      if (request->running) continue;  // again, or another candidate
      request->running = true;
      request->first_step = now_;
      request->n_cached_prompt_tokens = admission.n_cached_tokens;
      totals_.n_cached_prompt_tokens_total += admission.n_cached_tokens;
      places_.Give(request->spec.tenant);
    }
    for (const StepRow& row : plan->rows) {
      if (!row.use_last_sampled) totals_.n_prompt_tokens_total += row.n_tokens;
    }
  }
}

void Engine::ExpireDeadlines() {
  std::vector<uint64_t> late;
  std::vector<uint64_t> out_of_time;
  std::vector<std::pair<uint64_t, double>> hopeless;  // and when its first token would come
  if (requests_.empty()) return;                      // there is a scheduler as long as there are
  const double prompt_token_us = scheduler_->PromptTokenUs();
  const double error = scheduler_->cost_model().RelativeErrorP90();
  for (const auto& [handle, request] : requests_) {
    if (now_ >= request->spec.deadline) {
      late.push_back(handle);
      continue;
    }
    if (now_ >= request->spec.time_limit) {
      out_of_time.push_back(handle);
      continue;
    }
    if (request->running || request->spec.deadline == absl::InfiniteFuture()) continue;
    // Even if it were its turn now.
    const double too_late_us = TooLateUs(request->spec, error);
    const double us = scheduler_->PredictPromptUs(handle, prompt_token_us, too_late_us);
    if (us > too_late_us) hopeless.emplace_back(handle, us);
  }
  for (const uint64_t handle : late) {
    const Request& request = *requests_.at(handle);
    Fail(handle, DeadlineError(request.running, request.n_output_tokens()));
  }
  for (const auto& [handle, us] : hopeless) {
    Fail(handle, PredictedDeadlineError(requests_.at(handle)->spec.deadline - now_, us));
  }
  for (const uint64_t handle : out_of_time) {
    Request* request = requests_.at(handle).get();
    for (size_t i = 0; i < request->candidates.size(); ++i) {
      Request::Candidate& candidate = request->candidates[i];
      if (candidate.ended) continue;
      OutputDelta delta;
      delta.candidate = static_cast<int32_t>(i);
      delta.text = candidate.text.Finish();
      FinishInfo& finish = delta.finish.emplace();
      finish.kind = FinishKind::kTimeLimit;
      FillFinish(*request, delta.candidate, &finish);
      EndCandidate(request, &delta);
      request->observer->OnDelta(std::move(delta));
    }
    Forget(handle);
  }
}

double Engine::TooLateUs(const RequestSpec& spec, double prediction_error) const {
  return absl::ToDoubleMicroseconds(spec.deadline - now_) * (1 + prediction_error);
}

void Engine::OnStepResult(StepResult result) {
  oldest_plan_begin_ = now_;
  if (totals_.stage_compute_total.size() < result.stage_us.size()) {
    totals_.stage_compute_total.resize(result.stage_us.size());
  }
  for (size_t stage = 0; stage < result.stage_us.size(); ++stage) {
    totals_.stage_compute_total[stage] += absl::Microseconds(result.stage_us[stage]);
  }
  auto progress = scheduler_->CompleteStep(std::move(result));
  if (!progress.ok()) {
    cluster_.BreakGroup(std::string(progress.status().message()), now_);
    return;
  }
  if (!calibration_.has_value()) ++totals_.n_steps_total;
  for (SequenceProgress& item : *progress) Deliver(std::move(item));
}

void Engine::Calibrate() {
  if (!calibrating_.empty()) return;
  const double elapsed_us = absl::ToDoubleMicroseconds(now_ - calibration_begin_);
  std::vector<SequenceSpec> round =
      calibration_->NextRound(scheduler_->cost_model(), elapsed_us, next_handle_.load());
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
  next_handle_ += round.size();
  for (SequenceSpec& spec : round) {
    calibrating_[spec.handle] = spec.max_tokens;
    scheduler_->Add(std::move(spec));
  }
}

void Engine::Deliver(SequenceProgress progress) {
  if (const auto it = calibrating_.find(progress.handle); it != calibrating_.end()) {
    if (--it->second > 0) return;
    scheduler_->Remove(progress.handle);
    calibrating_.erase(it);
    Calibrate();
    return;
  }
  const auto it = sequences_.find(progress.handle);
  if (it == sequences_.end()) return;
  Request* request = it->second;
  OutputDelta delta;
  delta.candidate = static_cast<int32_t>(progress.handle - request->handle);
  delta.prompt_logprobs = std::move(progress.prompt_logprobs);
  const bool non_finite_prompt =
      std::any_of(delta.prompt_logprobs.begin(), delta.prompt_logprobs.end(),
                  [](const SampledToken& token) { return token.non_finite; });
  if (non_finite_prompt || (progress.sampled.has_value() && progress.sampled->non_finite)) {
    ApiError error;
    error.code = absl::StatusCode::kInternal;
    error.reason = reason::kNonFiniteLogits;
    error.message = absl::StrCat("the model's output is not finite after ",
                                 request->n_output_tokens(), " tokens of this request");
    error.metadata["outputTokenCount"] = absl::StrCat(request->n_output_tokens());
    Fail(request->handle, std::move(error));
    return;
  }
  if (progress.sampled.has_value()) {
    AppendToken(request, *progress.sampled, &delta);
    delta.tokens.push_back(std::move(*progress.sampled));
    // The prompt's blocks are there for the other candidates to share.
    if (!request->forked) Fork(request);
  }
  if (delta.finish.has_value()) {
    // Its slot and blocks are for others, whether or not all candidates have ended.
    scheduler_->Remove(progress.handle);
    EndCandidate(request, &delta);
  }
  const bool last = delta.last;
  const bool reader_keeps_up = request->observer->OnDelta(std::move(delta));
  if (last) {
    Forget(request->handle);
  } else if (!reader_keeps_up) {
    SetHeld(*request, true);
  }
}

void Engine::EndCandidate(Request* request, OutputDelta* delta) {
  request->candidates[delta->candidate].ended = true;
  delta->last = ++request->n_ended == request->spec.n_candidates;
}

void Engine::AppendToken(Request* request, const SampledToken& token, OutputDelta* delta) {
  Request::Candidate& candidate = request->candidates[delta->candidate];
  if (candidate.n_output_tokens++ == 0) candidate.first_token = now_;
  candidate.last_token = now_;
  ++totals_.n_output_tokens_total;
  const RequestSpec& spec = request->spec;
  const auto& stop_ids = spec.sampling.stop_token_ids;
  FinishInfo finish;
  if (std::binary_search(stop_ids.begin(), stop_ids.end(), token.token_id)) {
    finish.kind = FinishKind::kStopToken;
    finish.stop_token_id = token.token_id;
    delta->text = candidate.text.Finish();
  } else {
    CompletionText::Piece piece = candidate.text.Append(token.token_id);
    delta->text = std::move(piece.delta);
    if (piece.stop_sequence_matched.has_value()) {
      finish.kind = FinishKind::kStopSequence;
      finish.stop_sequence = *std::move(piece.stop_sequence_matched);
    } else if (candidate.n_output_tokens >= spec.max_tokens) {
      finish.kind = spec.context_limited ? FinishKind::kContextLength : FinishKind::kMaxTokens;
      delta->text += candidate.text.Finish();
    } else if (now_ >= spec.time_limit) {
      finish.kind = FinishKind::kTimeLimit;
      delta->text += candidate.text.Finish();
    } else {
      return;
    }
  }
  FillFinish(*request, delta->candidate, &finish);
  delta->finish = std::move(finish);
}

void Engine::FillFinish(const Request& request, int32_t candidate_idx, FinishInfo* finish) const {
  const Request::Candidate& candidate = request.candidates[candidate_idx];
  finish->seed = request.spec.sampling.seed + candidate_idx;
  finish->n_prompt_tokens = static_cast<int32_t>(request.spec.prompt_tokens.size());
  finish->n_output_tokens = candidate.n_output_tokens;
  finish->n_total_output_tokens = request.n_output_tokens();
  finish->n_cached_prompt_tokens = request.n_cached_prompt_tokens;
  // Of all candidates: the first token of any, the last of any.
  absl::Time first_token = now_;
  absl::Time last_token = absl::InfinitePast();
  for (const Request::Candidate& other : request.candidates) {
    if (other.n_output_tokens == 0) continue;
    first_token = std::min(first_token, other.first_token);
    last_token = std::max(last_token, other.last_token);
  }
  const absl::Time first_step = std::min(request.first_step, now_);
  finish->timing.queue = first_step - request.spec.arrival;
  finish->timing.prefill = first_token - first_step;
  finish->timing.decode = std::max(absl::ZeroDuration(), last_token - first_token);
  finish->timing.first_token = first_token - request.spec.arrival;
}

void Engine::Forget(uint64_t handle) {
  const auto it = requests_.find(handle);
  if (it == requests_.end()) return;
  if (!it->second->running) places_.Give(it->second->spec.tenant);
  for (int32_t i = 0; i < it->second->spec.n_candidates; ++i) {
    if (scheduler_ != nullptr) scheduler_->Remove(handle + i);
    sequences_.erase(handle + i);
  }
  requests_.erase(it);
  ++totals_.n_finished_requests_total;
  // As long as nothing can be predicted, a moving average of the time between ends tells when a
  // place in the queue will be free.
  const int64_t interval_us =
      absl::ToInt64Microseconds(std::clamp(now_ - last_finish_, kRetryDelayMin, kRetryDelayMax));
  last_finish_ = now_;
  retry_delay_us_.store((retry_delay_us_.load(std::memory_order_relaxed) * 7 + interval_us) / 8,
                        std::memory_order_relaxed);
}

void Engine::Fail(uint64_t handle, ApiError error) {
  const auto it = requests_.find(handle);
  if (it == requests_.end()) return;
  it->second->observer->OnError(std::move(error));
  Forget(handle);
}

void Engine::FailAll(const ApiError& error) {
  std::vector<uint64_t> handles;
  handles.reserve(requests_.size());
  for (const auto& [handle, request] : requests_) handles.push_back(handle);
  for (const uint64_t handle : handles) {
    ApiError own = error;
    own.metadata["outputTokenCount"] = absl::StrCat(requests_.at(handle)->n_output_tokens());
    Fail(handle, std::move(own));
  }
}

void Engine::OnGroupFormed(int64_t epoch, const GroupLimits& limits) {
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
  const bool serving =
      scheduler_ != nullptr && !calibration_.has_value() && !drain_asked_ && !stopping_;
  accepting_ = serving;
  if (serving != announced_serving_) {
    announced_serving_ = serving;
    on_serving_changed_(serving);
  }
  UpdateSnapshot();
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
