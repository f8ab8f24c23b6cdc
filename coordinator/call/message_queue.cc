#include "coordinator/call/message_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/utf8.h"
#include "coordinator/api/api_limits.h"

namespace bora {
namespace {

namespace v1 = inference::v1;

// An upper bound of the bytes of a message apart from its text, tokens and model name: ids, counts,
// durations and tags have less than 300, and the stop sequence in Finish has at most
// 4 * kMaxStopSequenceCodePoints.
constexpr int64_t kFixedBytes = 512 + 4 * kMaxStopSequenceCodePoints;

// The text of a single token; U+FFFD if its bytes are not UTF-8, as a token may be part of a
// character.
std::string LossyUtf8(absl::string_view bytes) {
  return std::string(IsValidUtf8(bytes) ? bytes : kUtf8Replacement);
}

v1::FinishReason ToProto(FinishKind kind) {
  switch (kind) {
    case FinishKind::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishKind::kStopSequence:
      return v1::FINISH_REASON_STOP_SEQUENCE;
    case FinishKind::kMaxTokens:
      return v1::FINISH_REASON_MAX_TOKENS;
    case FinishKind::kContextLength:
      return v1::FINISH_REASON_CONTEXT_LENGTH;
    case FinishKind::kTimeLimit:
      return v1::FINISH_REASON_TIME_LIMIT;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

// The bytes that an entry takes in its message: a tag of one byte and a length of at most 4 precede
// it.
int64_t EntryBytes(const v1::TokenLogprob& entry) {
  return static_cast<int64_t>(entry.ByteSizeLong()) + 5;
}

// Whether the message has no token, no prompt entry and no text yet.
bool IsEmpty(const v1::GenerateStreamResponse& message) {
  return message.token_count() == 0 && message.prompt_logprobs().empty() &&
         message.text_delta().empty();
}

}  // namespace

MessageQueue::MessageQueue(const Tokenizer& tokenizer, ResponseOptions options,
                           std::string request_id, std::string model, int32_t first_prompt_token)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      request_id_(std::move(request_id)),
      model_(std::move(model)) {
  if (!options_.prompt_logprobs) return;
  // The entry of the prompt's first token. Its rank stays 0, which marks an entry without a
  // log-probability.
  SampledToken first;
  first.token_id = first_prompt_token;
  std::vector<SampledToken> entries(1, first);
  prompt_logprobs_.Append(std::move(entries));
}

int64_t MessageQueue::PendingBytes(const SampledToken& token) const {
  // A typical log-probability entry has 40 bytes. An estimate is enough: only pausing the engine
  // depends on it, not the size of a message.
  return 5 + 40 * static_cast<int64_t>(token.top.size());
}

void MessageQueue::Add(OutputDelta delta) {
  CHECK(!finish_.has_value()) << "delta after the last";
  n_pending_bytes_ += static_cast<int64_t>(delta.text.size());
  for (const SampledToken& token : delta.tokens) n_pending_bytes_ += PendingBytes(token);
  n_tokens_ += static_cast<int64_t>(delta.tokens.size());
  text_ += delta.text;
  tokens_.Append(std::move(delta.tokens));
  if (options_.prompt_logprobs) {
    for (const SampledToken& token : delta.prompt_logprobs) n_pending_bytes_ += PendingBytes(token);
    prompt_logprobs_.Append(std::move(delta.prompt_logprobs));
  }
  finish_ = std::move(delta.finish);
}

bool MessageQueue::HasMessage() const {
  if (finish_.has_value()) return true;
  if (!sent_first_) return !tokens_.empty();
  return !tokens_.empty() || text_begin_ < text_.size() || echo_begin_ < echo().size() ||
         !prompt_logprobs_.empty();
}

bool MessageQueue::TakeMessage(v1::GenerateStreamResponse* message) {
  int64_t n_bytes_left = kMaxStreamMessageBytes - kFixedBytes - static_cast<int64_t>(model_.size());
  if (!sent_first_) {
    sent_first_ = true;
    message->set_request_id(request_id_);
    message->set_model(model_);
    if (!tokens_.empty()) TakeToken(message, &n_bytes_left);
  }
  echo_begin_ += TakeText(echo().substr(echo_begin_), message, &n_bytes_left);
  while (!prompt_logprobs_.empty() && TakePromptLogprob(message, &n_bytes_left)) {
  }
  // The rest of the echo and of the prompt's log-probabilities comes before any further token.
  if (echo_begin_ < echo().size() || !prompt_logprobs_.empty()) return false;
  while (!tokens_.empty() && TakeToken(message, &n_bytes_left)) {
  }
  const size_t n_taken =
      TakeText(absl::string_view(text_).substr(text_begin_), message, &n_bytes_left);
  n_pending_bytes_ -= static_cast<int64_t>(n_taken);
  text_begin_ += n_taken;
  if (text_begin_ * 2 >= text_.size()) {
    text_.erase(0, text_begin_);
    text_begin_ = 0;
  }
  if (!finish_.has_value() || !tokens_.empty() || text_begin_ < text_.size()) return false;
  FillFinish(message);
  return true;
}

bool MessageQueue::TakeToken(v1::GenerateStreamResponse* message, int64_t* n_bytes_left) {
  const SampledToken& token = tokens_.front();
  int64_t n_bytes = options_.token_ids ? 5 : 0;
  if (options_.logprobs) {
    if (!next_logprob_.has_value()) next_logprob_ = MakeLogprob(token);
    n_bytes += EntryBytes(*next_logprob_);
  }
  if (n_bytes > *n_bytes_left && !IsEmpty(*message)) return false;
  *n_bytes_left -= n_bytes;
  if (options_.logprobs) *message->add_logprobs() = *std::move(next_logprob_);
  next_logprob_.reset();
  if (options_.token_ids) message->add_token_ids(token.token_id);
  message->set_token_count(message->token_count() + 1);
  n_pending_bytes_ -= PendingBytes(token);
  tokens_.PopFront();
  return true;
}

bool MessageQueue::TakePromptLogprob(v1::GenerateStreamResponse* message, int64_t* n_bytes_left) {
  const SampledToken& token = prompt_logprobs_.front();
  if (!next_prompt_logprob_.has_value()) next_prompt_logprob_ = MakeLogprob(token);
  const int64_t n_bytes = EntryBytes(*next_prompt_logprob_);
  if (n_bytes > *n_bytes_left && !IsEmpty(*message)) return false;
  *n_bytes_left -= n_bytes;
  *message->add_prompt_logprobs() = *std::move(next_prompt_logprob_);
  next_prompt_logprob_.reset();
  // The entry of the first prompt token (rank 0) did not come with a delta: Add has not counted it.
  if (token.rank > 0) n_pending_bytes_ -= PendingBytes(token);
  prompt_logprobs_.PopFront();
  return true;
}

size_t MessageQueue::TakeText(absl::string_view text, v1::GenerateStreamResponse* message,
                              int64_t* n_bytes_left) {
  if (text.empty() || *n_bytes_left < 4) return 0;  // the longest character has 4 bytes
  size_t n_taken = std::min(text.size(), static_cast<size_t>(*n_bytes_left));
  const auto is_inside_character = [&](size_t i) { return (text[i] & 0xC0) == 0x80; };
  while (n_taken < text.size() && is_inside_character(n_taken)) --n_taken;
  message->mutable_text_delta()->append(text.data(), n_taken);
  *n_bytes_left -= static_cast<int64_t>(n_taken);
  return n_taken;
}

void MessageQueue::TakeResponse(v1::GenerateResponse* response) {
  CHECK(finish_.has_value()) << "answer before the end";
  response->set_request_id(request_id_);
  response->set_model(model_);
  response->set_text(absl::StrCat(echo(), text_));
  for (; !prompt_logprobs_.empty(); prompt_logprobs_.PopFront()) {
    *response->add_prompt_logprobs() = MakeLogprob(prompt_logprobs_.front());
  }
  for (; !tokens_.empty(); tokens_.PopFront()) {
    if (options_.token_ids) response->add_token_ids(tokens_.front().token_id);
    if (options_.logprobs) *response->add_logprobs() = MakeLogprob(tokens_.front());
  }
  FillFinish(response);
}

v1::TokenLogprob MessageQueue::MakeLogprob(const SampledToken& token) const {
  v1::TokenLogprob entry;
  const absl::string_view bytes = tokenizer_.TokenBytes(token.token_id);
  entry.set_token_id(token.token_id);
  entry.set_token(LossyUtf8(bytes));
  entry.set_token_bytes(bytes.data(), bytes.size());
  entry.set_rank(token.rank);
  // Only the first prompt token has rank 0.
  if (token.rank > 0) entry.set_logprob(token.logprob);
  for (const TokenLogprob& alternative : token.top) {
    const absl::string_view top_bytes = tokenizer_.TokenBytes(alternative.token_id);
    v1::Alternative* top = entry.add_top();
    top->set_token_id(alternative.token_id);
    top->set_token(LossyUtf8(top_bytes));
    top->set_token_bytes(top_bytes.data(), top_bytes.size());
    top->set_logprob(alternative.logprob);
  }
  return entry;
}

template <typename Message>
void MessageQueue::FillFinish(Message* message) const {
  v1::Finish* finish = message->mutable_finish();
  finish->set_reason(ToProto(finish_->kind));
  if (finish_->kind == FinishKind::kStopToken) finish->set_stop_token_id(finish_->stop_token_id);
  if (finish_->kind == FinishKind::kStopSequence) finish->set_stop_sequence(finish_->stop_sequence);
  finish->set_seed(static_cast<int64_t>(finish_->seed));
}

}  // namespace bora
