// Output of one candidate that the engine has made and the client has not got yet, and its division
// into messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/api/request_validator.h"
#include "model/text/tokenizer.h"

namespace bora {

// A FIFO on a vector, without an allocation per item. Taken items are erased when they are half of
// the vector, so that taking costs O(1) on average. Owned by one thread at a time.
template <typename T>
class ReuseQueue {
 public:
  bool empty() const { return begin_ == items_.size(); }
  size_t size() const { return items_.size() - begin_; }
  T& front() { return items_[begin_]; }
  void Append(std::vector<T>&& more) {
    for (T& item : more) items_.push_back(std::move(item));
  }
  void PopFront() {
    if (++begin_ * 2 < items_.size()) return;
    items_.erase(items_.begin(), items_.begin() + begin_);
    begin_ = 0;
  }

 private:
  std::vector<T> items_;
  size_t begin_ = 0;
};

// Collects the deltas of one candidate; gives its messages of GenerateStream by the rules (a), (b),
// (c) and (e) of docs/api.md, or one GenerateResponse, without usage and timing. Owned by one
// thread at a time.
class MessageQueue {
 public:
  // `tokenizer` must outlive this; `first_prompt_token` is the token of the prompt that has no
  // log-probability.
  MessageQueue(const Tokenizer& tokenizer, ResponseOptions options, std::string request_id,
               std::string model, int32_t first_prompt_token);

  // REQUIRES: no delta with `finish` was added before.
  void Add(OutputDelta delta);

  // Whether a message may be sent: before the first one there must be a token or the end.
  bool HasMessage() const;
  // Fills `message`, which is empty, with as much as one message may carry; true if it is the last.
  // REQUIRES: HasMessage().
  bool TakeMessage(inference::v1::GenerateStreamResponse* message);
  // Fills `response`, which is empty, with the whole answer.
  // REQUIRES: the delta with `finish` was added, and no message was taken.
  void TakeResponse(inference::v1::GenerateResponse* response);

  // About how many bytes wait to be sent, without the echoed prompt.
  int64_t n_pending_bytes() const { return n_pending_bytes_; }
  // Whether a generated token was added.
  bool any_token() const { return n_tokens_ > 0; }
  // Generated tokens that were added until now, sent ones included.
  int64_t n_tokens() const { return n_tokens_; }

 private:
  // Moves the next token's id and log-probabilities to the message, as far as the options ask for
  // them, and subtracts their size from `*n_bytes_left`. False, and nothing is moved, if the token
  // is larger than that and the message is not empty.
  bool TakeToken(inference::v1::GenerateStreamResponse* message, int64_t* n_bytes_left);
  // The same for the log-probabilities of the next token of the prompt.
  bool TakePromptLogprob(inference::v1::GenerateStreamResponse* message, int64_t* n_bytes_left);
  // Copies whole characters, at most *n_bytes_left bytes, from the begin of `text` to the message;
  // returns how many bytes.
  static size_t TakeText(absl::string_view text, inference::v1::GenerateStreamResponse* message,
                         int64_t* n_bytes_left);
  absl::string_view echo() const {
    return options_.echo_text == nullptr ? absl::string_view() : *options_.echo_text;
  }
  inference::v1::TokenLogprob MakeLogprob(const SampledToken& token) const;
  template <typename Message>
  void FillFinish(Message* message) const;
  int64_t PendingBytes(const SampledToken& token) const;

  const Tokenizer& tokenizer_;
  const ResponseOptions options_;
  const std::string request_id_;
  const std::string model_;
  size_t echo_begin_ = 0;  // bytes of echo() that have been taken
  std::string text_;
  size_t text_begin_ = 0;  // bytes of text_ that have been taken
  ReuseQueue<SampledToken> tokens_;
  ReuseQueue<SampledToken> prompt_logprobs_;
  std::optional<FinishInfo> finish_;
  // The entries of the next token and of the next token of the prompt if they were made for a
  // message that had no room for them.
  std::optional<inference::v1::TokenLogprob> next_logprob_;
  std::optional<inference::v1::TokenLogprob> next_prompt_logprob_;
  int64_t n_tokens_ = 0;  // generated tokens that were added, sent ones included
  int64_t n_pending_bytes_ = 0;
  bool sent_first_ = false;
};

}  // namespace bora
