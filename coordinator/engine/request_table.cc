#include "coordinator/engine/request_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/api/api_errors.h"

namespace bora {
namespace {

// A first token that is predicted to come in more than this many microseconds is too late for the
// request's deadline. The bound is raised by the relative error of predictions, so that a request
// is given up only if it would be too late even then.
double TooLateUs(const RequestSpec& spec, double prediction_error, SteadyTime now) {
  return absl::ToDoubleMicroseconds(spec.deadline - now) * (1 + prediction_error);
}

bool HasDeadline(const RequestSpec& spec) { return spec.deadline != SteadyTime::InfiniteFuture(); }

// The parts of a prediction that are the same for all requests of a scheduler: computed once per
// ExpireDeadlines.
struct Outlook {
  double prompt_token_us = 0;  // predicted microseconds per prompt token
  double relative_error = 0;   // of the cost model's predictions, 90th percentile
};

Outlook OutlookOf(const Scheduler& scheduler) {
  return {scheduler.PromptTokenUs(), scheduler.cost_model().RelativeErrorP90()};
}

RequestTiming TimingOf(const LiveRequest& request, SteadyTime now) {
  // The earliest first token and the latest last token of all candidates.
  SteadyTime first_token = now;
  SteadyTime last_token = SteadyTime::InfinitePast();
  for (const LiveRequest::Candidate& candidate : request.candidates) {
    if (candidate.n_output_tokens == 0) continue;
    first_token = std::min(first_token, candidate.first_token);
    last_token = std::max(last_token, candidate.last_token);
  }
  const SteadyTime first_step = std::min(request.first_step, now);
  RequestTiming timing;
  timing.queue = first_step - request.spec.arrival;
  timing.prefill = first_token - first_step;
  timing.decode = std::max(absl::ZeroDuration(), last_token - first_token);
  timing.first_token = first_token - request.spec.arrival;
  return timing;
}

// Fills all fields except kind, stop_token_id and stop_sequence.
void FillFinish(const LiveRequest& request, int32_t candidate_idx, SteadyTime now,
                FinishInfo* finish) {
  finish->seed = request.spec.sampling.seed + candidate_idx;
  finish->n_prompt_tokens = static_cast<int32_t>(request.spec.prompt_tokens.size());
  finish->n_output_tokens = request.candidates[candidate_idx].n_output_tokens;
  finish->n_total_output_tokens = request.n_output_tokens();
  finish->n_cached_prompt_tokens = request.n_cached_prompt_tokens;
  finish->timing = TimingOf(request, now);
}

bool IsNonFinite(const SequenceProgress& progress) {
  return (progress.sampled.has_value() && progress.sampled->non_finite) ||
         std::any_of(progress.prompt_logprobs.begin(), progress.prompt_logprobs.end(),
                     [](const SampledToken& token) { return token.non_finite; });
}

}  // namespace

RequestTable::RequestTable(const Tokenizer& tokenizer, bool prefix_cache, QueueQuota* quota,
                           RetryDelay* retry_delay, EngineStats* stats)
    : tokenizer_(tokenizer),
      prefix_cache_(prefix_cache),
      quota_(quota),
      retry_delay_(retry_delay),
      stats_(stats) {}

// Into the queue.

void RequestTable::Submit(Submission submission, Scheduler* scheduler, SteadyTime now) {
  const uint64_t handle = submission.handle;
  auto request = std::make_unique<LiveRequest>(handle, std::move(submission.spec),
                                               std::move(submission.observer), tokenizer_);
  request->account = std::move(submission.account);
  request->scheduler = scheduler;
  SequenceSpec sequence = MakeSequence(*request, 0);
  if (HasDeadline(request->spec)) {
    const double too_late_us =
        TooLateUs(request->spec, scheduler->cost_model().RelativeErrorP90(), now);
    const double first_token_us = scheduler->PredictFirstTokenUs(sequence, too_late_us);
    if (first_token_us > too_late_us) {
      quota_->Give(request->account, request->n_queued);
      request->observer->OnError(DeadlineBeforeFirstToken(request->spec.deadline - now,
                                                          absl::Microseconds(first_token_us)));
      stats_->RequestEnded();
      return;
    }
  }
  scheduler->Add(std::move(sequence));
  for (int32_t i = 0; i < request->spec.n_candidates; ++i) {
    sequences_.emplace(handle + i, request.get());
  }
  requests_.emplace(handle, std::move(request));
}

void RequestTable::Refuse(const Submission& submission, ApiError error) {
  quota_->Give(submission.account, submission.spec.n_candidates);
  submission.observer->OnError(std::move(error));
}

SequenceSpec RequestTable::MakeSequence(const LiveRequest& request, int32_t candidate) const {
  const RequestSpec& spec = request.spec;
  SequenceSpec sequence;
  sequence.handle = request.handle + candidate;
  sequence.prompt_tokens = spec.prompt_tokens;
  sequence.sampling = spec.sampling;
  sequence.sampling.seed += candidate;
  if (candidate > 0) sequence.sampling.n_prompt_logprobs = -1;
  sequence.max_tokens = spec.max_tokens;
  sequence.prefix_cache = prefix_cache_ && spec.prefix_cache;
  sequence.cache_salt = spec.cache_salt;
  if (!sequence.prefix_cache && spec.n_candidates > 1) {
    // The candidates share the prompt's blocks with each other, but with no other request: the salt
    // is not UTF-8, so no other request can have it.
    sequence.prefix_cache = true;
    sequence.cache_salt = absl::StrCat("\xff", request.handle);
  }
  sequence.priority = spec.priority;
  sequence.tenant = spec.tenant;
  sequence.arrival_us = absl::ToInt64Microseconds(spec.arrival.since_beginning());
  return sequence;
}

void RequestTable::Fork(LiveRequest* request) {
  request->forked = true;
  for (int32_t i = 1; i < request->spec.n_candidates; ++i) {
    request->scheduler->Add(MakeSequence(*request, i));
  }
}

void RequestTable::SetHeld(const LiveRequest& request, bool held) {
  for (int32_t i = 0; i < request.spec.n_candidates; ++i) {
    request.scheduler->SetHeld(request.handle + i, held);
  }
}

void RequestTable::Resume(uint64_t handle) {
  const auto it = requests_.find(handle);
  if (it != requests_.end()) SetHeld(*it->second, false);
}

void RequestTable::OnAdmitted(absl::Span<const Admission> admissions, SteadyTime now) {
  for (const Admission& admission : admissions) {
    if (admission.again) continue;  // a preempted sequence, which is not counted as waiting
    LiveRequest* request = sequences_.at(admission.handle);
    --request->n_queued;
    quota_->Give(request->account, 1);
    if (request->running) continue;  // another candidate has had a slot before
    request->running = true;
    request->first_step = now;
    request->n_cached_prompt_tokens = admission.n_cached_tokens;
    stats_->FoundInCache(admission.n_cached_tokens);
  }
}

// Tokens.

void RequestTable::Deliver(SequenceProgress progress, SteadyTime now) {
  const auto it = sequences_.find(progress.handle);
  if (it == sequences_.end()) return;
  LiveRequest* request = it->second;
  if (IsNonFinite(progress)) {
    Fail(request->handle, NonFiniteLogits(request->n_output_tokens()), now);
    return;
  }
  OutputDelta delta;
  delta.candidate = static_cast<int32_t>(progress.handle - request->handle);
  delta.prompt_logprobs = std::move(progress.prompt_logprobs);
  if (progress.sampled.has_value()) {
    AppendToken(request, *progress.sampled, now, &delta);
    delta.tokens.push_back(std::move(*progress.sampled));
    // The prompt is computed: the other candidates find its blocks in the prefix cache.
    if (!request->forked) Fork(request);
  }
  if (delta.finish.has_value()) {
    // Frees the candidate's slot and blocks, although other candidates may still run.
    request->scheduler->Remove(progress.handle);
    EndCandidate(request, &delta);
  }
  const bool last = delta.last;
  const bool reader_keeps_up = request->observer->OnDelta(std::move(delta));
  if (last) {
    Forget(request->handle, now);
  } else if (!reader_keeps_up) {
    SetHeld(*request, true);
  }
}

void RequestTable::NoteToken(const LiveRequest& request, int32_t candidate_idx, SteadyTime now,
                             LiveRequest::Candidate* candidate) {
  if (candidate->n_output_tokens++ > 0) {
    stats_->TokenGap(now - candidate->last_token);
  } else {
    candidate->first_token = now;
    if (candidate_idx == 0) stats_->FirstToken(now - request.spec.arrival);
  }
  candidate->last_token = now;
  stats_->OutputToken();
}

void RequestTable::AppendToken(LiveRequest* request, const SampledToken& token, SteadyTime now,
                               OutputDelta* delta) {
  LiveRequest::Candidate& candidate = request->candidates[delta->candidate];
  NoteToken(*request, delta->candidate, now, &candidate);
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
    } else if (now >= spec.time_limit) {
      finish.kind = FinishKind::kTimeLimit;
      delta->text += candidate.text.Finish();
    } else {
      return;
    }
  }
  FillFinish(*request, delta->candidate, now, &finish);
  delta->finish = std::move(finish);
}

void RequestTable::EndCandidate(LiveRequest* request, OutputDelta* delta) {
  request->candidates[delta->candidate].ended = true;
  delta->last = ++request->n_ended == request->spec.n_candidates;
}

// Deadlines and ends.

void RequestTable::ExpireDeadlines(SteadyTime now) {
  struct Hopeless {
    uint64_t handle;
    double first_token_us;
  };
  // Collected first, as ending a request changes requests_.
  std::vector<uint64_t> late;
  std::vector<uint64_t> out_of_time;
  std::vector<Hopeless> hopeless;
  absl::flat_hash_map<const Scheduler*, Outlook> outlooks;
  for (const auto& [handle, request] : requests_) {
    const RequestSpec& spec = request->spec;
    if (now >= spec.deadline) {
      late.push_back(handle);
    } else if (now >= spec.time_limit) {
      out_of_time.push_back(handle);
    } else if (!request->running && HasDeadline(spec)) {
      const Scheduler& scheduler = *request->scheduler;
      auto [outlook, is_new] = outlooks.try_emplace(&scheduler);
      if (is_new) outlook->second = OutlookOf(scheduler);
      const double too_late_us = TooLateUs(spec, outlook->second.relative_error, now);
      const double us =
          scheduler.PredictPromptUs(handle, outlook->second.prompt_token_us, too_late_us);
      if (us > too_late_us) hopeless.push_back({handle, us});
    }
  }
  for (const uint64_t handle : late) {
    const LiveRequest& request = *requests_.at(handle);
    Fail(handle, request.running ? DeadlineInDecode(request.n_output_tokens()) : DeadlineInQueue(),
         now);
  }
  for (const Hopeless& request : hopeless) {
    const absl::Duration left = requests_.at(request.handle)->spec.deadline - now;
    Fail(request.handle, DeadlineBeforeFirstToken(left, absl::Microseconds(request.first_token_us)),
         now);
  }
  for (const uint64_t handle : out_of_time) EndAtTimeLimit(requests_.at(handle).get(), now);
}

void RequestTable::EndAtTimeLimit(LiveRequest* request, SteadyTime now) {
  for (size_t i = 0; i < request->candidates.size(); ++i) {
    LiveRequest::Candidate& candidate = request->candidates[i];
    if (candidate.ended) continue;
    OutputDelta delta;
    delta.candidate = static_cast<int32_t>(i);
    delta.text = candidate.text.Finish();
    FinishInfo& finish = delta.finish.emplace();
    finish.kind = FinishKind::kTimeLimit;
    FillFinish(*request, delta.candidate, now, &finish);
    EndCandidate(request, &delta);
    request->observer->OnDelta(std::move(delta));
  }
  Forget(request->handle, now);
}

void RequestTable::Cancel(uint64_t handle, SteadyTime now) { Forget(handle, now); }

void RequestTable::Forget(uint64_t handle, SteadyTime now) {
  const auto it = requests_.find(handle);
  if (it == requests_.end()) return;
  const LiveRequest& request = *it->second;
  quota_->Give(request.account, request.n_queued);
  for (int32_t i = 0; i < request.spec.n_candidates; ++i) {
    request.scheduler->Remove(handle + i);
    sequences_.erase(handle + i);
  }
  requests_.erase(it);
  stats_->RequestEnded();
  retry_delay_->RequestEnded(now);
}

void RequestTable::Fail(uint64_t handle, ApiError error, SteadyTime now) {
  requests_.at(handle)->observer->OnError(std::move(error));
  Forget(handle, now);
}

void RequestTable::FailAll(const ApiError& error, SteadyTime now) {
  std::vector<uint64_t> handles;
  handles.reserve(requests_.size());
  for (const auto& [handle, request] : requests_) handles.push_back(handle);
  for (const uint64_t handle : handles) {
    ApiError own = error;
    own.metadata["outputTokenCount"] = absl::StrCat(requests_.at(handle)->n_output_tokens());
    Fail(handle, std::move(own), now);
  }
}

}  // namespace bora
