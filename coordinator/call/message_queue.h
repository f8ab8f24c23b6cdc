// The output of one candidate that the client has not got yet, and its division into messages.
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

// A FIFO on a vector, which unlike a deque allocates nothing for items in the steady state. Taken
// items are erased when they make up half of the vector, so that PopFront costs O(1) on average.
// Owned by one thread at a time.
template <typename T>
class ReuseQueue {
 public:
  bool empty() const { return begin_ == items_.size(); }
  size_t size() const { return items_.size() - begin_; }
  // REQUIRES: !empty().
  T& front() { return items_[begin_]; }
  // Moves all items of `more` to the end of the queue.
  void Append(std::vector<T>&& more) {
    for (T& item : more) items_.push_back(std::move(item));
  }
  // REQUIRES: !empty().
  void PopFront() {
    if (++begin_ * 2 < items_.size()) return;
    items_.erase(items_.begin(), items_.begin() + begin_);
    begin_ = 0;
  }

 private:
  std::vector<T> items_;
  size_t begin_ = 0;  // index of the first item that has not been taken
};

// Collects the deltas of one candidate and divides them into messages of GenerateStream by the
// rules (a), (b), (c) and (e) of docs/api.md, or puts them into one GenerateResponse. Usage and
// timing are not filled in here (AnswerParts does). Owned by one thread at a time.
class MessageQueue {
 public:
  // `tokenizer` must outlive this. `request_id` and `model` are sent with the first message.
  // `first_prompt_token` is the prompt's first token: if the options ask for the prompt's
  // log-probabilities, it has the first entry, without a log-probability.
  MessageQueue(const Tokenizer& tokenizer, ResponseOptions options, std::string request_id,
               std::string model, int32_t first_prompt_token);

  // Adds the candidate's next output. REQUIRES: no delta with `finish` was added before.
  void Add(OutputDelta delta);

  // Whether a message may be sent. The first message needs a generated token or the candidate's
  // end; later ones need any output.
  bool HasMessage() const;
  // Fills `message`, which must be empty, with as much output as kMaxStreamMessageBytes allows.
  // Returns true if it is the candidate's last message; that one has the finish.
  // REQUIRES: HasMessage().
  bool TakeMessage(inference::v1::GenerateStreamResponse* message);
  // Fills `response`, which must be empty, with the candidate's whole output.
  // REQUIRES: the delta with `finish` was added, and no message was taken.
  void TakeResponse(inference::v1::GenerateResponse* response);

  // Estimate of the bytes that wait to be sent, without the echoed prompt.
  int64_t n_pending_bytes() const { return n_pending_bytes_; }
  // Whether a generated token was added.
  bool any_token() const { return n_tokens_ > 0; }
  // Generated tokens that were added until now, sent ones included.
  int64_t n_tokens() const { return n_tokens_; }

 private:
  // Moves the next token's id and log-probabilities to the message, as far as the options ask for
  // them, and subtracts their size from *n_bytes_left. Returns false, and moves nothing, if they
  // need more than *n_bytes_left bytes and the message is not empty: an empty message takes any
  // token, so that each message makes progress.
  bool TakeToken(inference::v1::GenerateStreamResponse* message, int64_t* n_bytes_left);
  // The same for the log-probabilities of the next token of the prompt.
  bool TakePromptLogprob(inference::v1::GenerateStreamResponse* message, int64_t* n_bytes_left);
  // Copies whole characters, at most *n_bytes_left bytes, from the beginning of `text` to the
  // message. Subtracts the number of copied bytes from *n_bytes_left and returns it.
  static size_t TakeText(absl::string_view text, inference::v1::GenerateStreamResponse* message,
                         int64_t* n_bytes_left);
  absl::string_view echo() const {
    return options_.echo_text == nullptr ? absl::string_view() : *options_.echo_text;
  }
  inference::v1::TokenLogprob MakeLogprob(const SampledToken& token) const;
  template <typename Message>
  void FillFinish(Message* message) const;
  // Estimate of the bytes that the token's id and log-probabilities take in a message.
  int64_t PendingBytes(const SampledToken& token) const;

  const Tokenizer& tokenizer_;
  const ResponseOptions options_;
  const std::string request_id_;
  const std::string model_;
  size_t echo_begin_ = 0;  // bytes of echo() that have been taken
  std::string text_;       // text of the deltas; taken text is erased when it is half of text_
  size_t text_begin_ = 0;  // bytes of text_ that have been taken
  ReuseQueue<SampledToken> tokens_;           // generated tokens that wait
  ReuseQueue<SampledToken> prompt_logprobs_;  // entries of the prompt that wait
  std::optional<FinishInfo> finish_;          // set once the candidate has ended
  // The log-probability entries at the front of tokens_ and prompt_logprobs_. Set if an entry was
  // made for a message that had no room for it, so that it is not made twice.
  std::optional<inference::v1::TokenLogprob> next_logprob_;
  std::optional<inference::v1::TokenLogprob> next_prompt_logprob_;
  int64_t n_tokens_ = 0;  // generated tokens that were added, sent ones included
  int64_t n_pending_bytes_ = 0;
  bool sent_first_ = false;  // the first message was taken
};

}  // namespace bora
