#include "coordinator/call/answer_parts.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "coordinator/api/proto_duration.h"

namespace bora {

namespace v1 = inference::v1;

AnswerParts::AnswerParts(const Tokenizer& tokenizer, const ResponseOptions& options,
                         std::string request_id, std::string model, int32_t first_prompt_token,
                         int32_t n_candidates)
    : timing_(options.timing), sent_last_(n_candidates, false) {
  candidates_.reserve(n_candidates);
  candidates_.emplace_back(tokenizer, options, std::move(request_id), std::move(model),
                           first_prompt_token);
  // Candidate 0 alone carries what the candidates have in common: the id and the model's name, and
  // the prompt's log-probabilities.
  ResponseOptions others = options;
  others.prompt_logprobs = false;
  for (int32_t i = 1; i < n_candidates; ++i) {
    candidates_.emplace_back(tokenizer, others, "", "", first_prompt_token);
  }
}

void AnswerParts::Add(OutputDelta delta) {
  CHECK(!final_.has_value()) << "delta after the last";
  if (delta.last) final_ = delta.finish;
  auto& candidate = candidates_[delta.candidate];
  candidate.Add(std::move(delta));
}

bool AnswerParts::HasMessage() const {
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (!sent_last_[i] && candidates_[i].HasMessage()) return true;
  }
  return false;
}

bool AnswerParts::TakeMessage(v1::GenerateStreamResponse* message) {
  size_t i = next_;
  while (sent_last_[i] || !candidates_[i].HasMessage()) i = (i + 1) % candidates_.size();
  next_ = (i + 1) % candidates_.size();
  if (candidates_[i].TakeMessage(message)) {
    sent_last_[i] = true;
    ++n_sent_last_;
  }
  message->set_candidate_index(static_cast<int32_t>(i));
  if (n_sent_last_ < static_cast<int32_t>(candidates_.size())) return false;
  FillEnd(message);
  return true;
}

void AnswerParts::TakeResponse(v1::GenerateResponse* response) {
  candidates_[0].TakeResponse(response);
  for (size_t i = 1; i < candidates_.size(); ++i) {
    v1::GenerateResponse other;
    const int64_t n_tokens = candidates_[i].n_tokens();
    candidates_[i].TakeResponse(&other);
    v1::Candidate* candidate = response->add_other_candidates();
    candidate->set_index(static_cast<int32_t>(i));
    candidate->set_text(std::move(*other.mutable_text()));
    candidate->mutable_token_ids()->Swap(other.mutable_token_ids());
    candidate->mutable_logprobs()->Swap(other.mutable_logprobs());
    candidate->mutable_finish()->Swap(other.mutable_finish());
    candidate->set_output_token_count(static_cast<int32_t>(n_tokens));
  }
  FillEnd(response);
}

int64_t AnswerParts::n_pending_bytes() const {
  int64_t n_bytes = 0;
  for (const MessageQueue& candidate : candidates_) n_bytes += candidate.n_pending_bytes();
  return n_bytes;
}

bool AnswerParts::any_token() const {
  return std::any_of(candidates_.begin(), candidates_.end(),
                     [](const MessageQueue& candidate) { return candidate.any_token(); });
}

template <typename Message>
void AnswerParts::FillEnd(Message* message) const {
  CHECK(final_.has_value()) << "answer before the end";
  v1::Usage* usage = message->mutable_usage();
  usage->set_prompt_token_count(final_->n_prompt_tokens);
  usage->set_output_token_count(final_->n_total_output_tokens);
  usage->set_cached_prompt_token_count(final_->n_cached_prompt_tokens);
  if (!timing_) return;
  v1::Timing* timing = message->mutable_timing();
  SetDuration(final_->timing.queue, timing->mutable_queue_duration());
  SetDuration(final_->timing.prefill, timing->mutable_prefill_duration());
  SetDuration(final_->timing.decode, timing->mutable_decode_duration());
  SetDuration(final_->timing.first_token, timing->mutable_first_token_duration());
}

}  // namespace bora
