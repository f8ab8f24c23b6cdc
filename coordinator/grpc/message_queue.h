// What the engine has made and the client has not got yet, and how it is divided into messages.
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

// A FIFO on a vector, without an allocation per item; what has been taken is given up when it is
// half of the vector, so that taking costs O(1) on average. Owned by one thread at a time.
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
// (c), (e), or one GenerateResponse, without usage and timing. Owned by one thread at a time.
class MessageQueue {
 public:
  // `tokenizer` must outlive this; `first_prompt_token` is the one that has no log-probability.
  MessageQueue(const Tokenizer& tokenizer, ResponseOptions options, std::string request_id,
               std::string model, int32_t first_prompt_token);

  void Add(OutputDelta delta);

  // Something may be sent: there is a token, or there was one before, or this is the end.
  bool HasMessage() const;
  // Fills `message`, which is empty, with as much as one may carry; true if it is the last.
  // Requires HasMessage.
  bool TakeMessage(inference::v1::GenerateStreamResponse* message);
  // Fills `response`, which is empty, with everything. Requires that the last delta was added.
  void TakeResponse(inference::v1::GenerateResponse* response);

  // About how many bytes wait to be sent, beside the echoed prompt.
  int64_t n_pending_bytes() const { return n_pending_bytes_; }
  bool any_token() const { return n_tokens_ > 0; }
  // Generated until now.
  int64_t n_tokens() const { return n_tokens_; }

 private:
  // Moves the next token's ids and log-probabilities to the message. False, and nothing is moved,
  // if there are entries already and the token would exceed `*n_bytes_left`.
  bool TakeToken(inference::v1::GenerateStreamResponse* message, int64_t* n_bytes_left);
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
  size_t echo_begin_ = 0;  // what is before has been taken
  std::string text_;
  size_t text_begin_ = 0;
  ReuseQueue<SampledToken> tokens_;
  ReuseQueue<SampledToken> prompt_logprobs_;
  absl::optional<FinishInfo> finish_;
  // The next entries, from when they are made until they fit into a message.
  absl::optional<inference::v1::TokenLogprob> next_logprob_;
  absl::optional<inference::v1::TokenLogprob> next_prompt_logprob_;
  int64_t n_tokens_ = 0;  // generated, all of them
  int64_t n_pending_bytes_ = 0;
  bool sent_first_ = false;
};

}  // namespace bora
