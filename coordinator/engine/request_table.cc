// What the engine does for one request, from the mailbox to its end; see engine.h.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/live_request.h"

namespace bora {
namespace {

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

void Engine::HandleSubmit(SubmitEvent event) {
  if (scheduler_ == nullptr || calibration_.has_value()) {
    places_.Give(event.account, event.spec.n_candidates);
    event.observer->OnError(RefusalWhileNotServing());
    return;
  }
  auto request = std::make_unique<LiveRequest>(event.handle, std::move(event.spec),
                                               std::move(event.observer), tokenizer_);
  request->account = std::move(event.account);
  SequenceSpec sequence = MakeSequence(*request, 0);
  if (request->spec.deadline != SteadyTime::InfiniteFuture()) {
    const double too_late_us =
        TooLateUs(request->spec, scheduler_->cost_model().RelativeErrorP90());
    const double first_token_us = scheduler_->PredictFirstTokenUs(sequence, too_late_us);
    if (first_token_us > too_late_us) {
      places_.Give(request->account, request->n_places);
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

SequenceSpec Engine::MakeSequence(const LiveRequest& request, int32_t candidate) const {
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
  sequence.arrival_us = absl::ToInt64Microseconds(spec.arrival.since_beginning());
  return sequence;
}

void Engine::Fork(LiveRequest* request) {
  request->forked = true;
  for (int32_t i = 1; i < request->spec.n_candidates; ++i) {
    scheduler_->Add(MakeSequence(*request, i));
  }
}

void Engine::SetHeld(const LiveRequest& request, bool held) {
  for (int32_t i = 0; i < request.spec.n_candidates; ++i) {
    scheduler_->SetHeld(request.handle + i, held);
  }
}

double Engine::TooLateUs(const RequestSpec& spec, double prediction_error) const {
  return absl::ToDoubleMicroseconds(spec.deadline - now_) * (1 + prediction_error);
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
    if (request->running || request->spec.deadline == SteadyTime::InfiniteFuture()) continue;
    // Even if it were its turn now.
    const double too_late_us = TooLateUs(request->spec, error);
    const double us = scheduler_->PredictPromptUs(handle, prompt_token_us, too_late_us);
    if (us > too_late_us) hopeless.emplace_back(handle, us);
  }
  for (const uint64_t handle : late) {
    const LiveRequest& request = *requests_.at(handle);
    Fail(handle, DeadlineError(request.running, request.n_output_tokens()));
  }
  for (const auto& [handle, us] : hopeless) {
    Fail(handle, PredictedDeadlineError(requests_.at(handle)->spec.deadline - now_, us));
  }
  for (const uint64_t handle : out_of_time) {
    LiveRequest* request = requests_.at(handle).get();
    for (size_t i = 0; i < request->candidates.size(); ++i) {
      LiveRequest::Candidate& candidate = request->candidates[i];
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
  LiveRequest* request = it->second;
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

void Engine::EndCandidate(LiveRequest* request, OutputDelta* delta) {
  request->candidates[delta->candidate].ended = true;
  delta->last = ++request->n_ended == request->spec.n_candidates;
}

void Engine::AppendToken(LiveRequest* request, const SampledToken& token, OutputDelta* delta) {
  LiveRequest::Candidate& candidate = request->candidates[delta->candidate];
  if (candidate.n_output_tokens++ > 0) {
    totals_.token_gap.Add(now_ - candidate.last_token);
  } else {
    candidate.first_token = now_;
    if (delta->candidate == 0) totals_.time_to_first_token.Add(now_ - request->spec.arrival);
  }
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

void Engine::FillFinish(const LiveRequest& request, int32_t candidate_idx,
                        FinishInfo* finish) const {
  const LiveRequest::Candidate& candidate = request.candidates[candidate_idx];
  finish->seed = request.spec.sampling.seed + candidate_idx;
  finish->n_prompt_tokens = static_cast<int32_t>(request.spec.prompt_tokens.size());
  finish->n_output_tokens = candidate.n_output_tokens;
  finish->n_total_output_tokens = request.n_output_tokens();
  finish->n_cached_prompt_tokens = request.n_cached_prompt_tokens;
  // Of all candidates: the first token of any, the last of any.
  SteadyTime first_token = now_;
  SteadyTime last_token = SteadyTime::InfinitePast();
  for (const LiveRequest::Candidate& other : request.candidates) {
    if (other.n_output_tokens == 0) continue;
    first_token = std::min(first_token, other.first_token);
    last_token = std::max(last_token, other.last_token);
  }
  const SteadyTime first_step = std::min(request.first_step, now_);
  finish->timing.queue = first_step - request.spec.arrival;
  finish->timing.prefill = first_token - first_step;
  finish->timing.decode = std::max(absl::ZeroDuration(), last_token - first_token);
  finish->timing.first_token = first_token - request.spec.arrival;
}

void Engine::Forget(uint64_t handle) {
  const auto it = requests_.find(handle);
  if (it == requests_.end()) return;
  places_.Give(it->second->account, it->second->n_places);
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

}  // namespace bora
