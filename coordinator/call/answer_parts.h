// The part of a request's answer that the client has not got yet: a MessageQueue for each
// candidate. The candidates with messages take turns, so that none of them waits for another to
// end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/call/message_queue.h"
#include "model/text/tokenizer.h"

namespace bora {

// Owned by one thread at a time.
class AnswerParts {
 public:
  // `tokenizer` must outlive this. `request_id` and `model` are sent with the first message of
  // candidate 0. `first_prompt_token` is the prompt's first token: it has no log-probability, since
  // no token precedes it, but has an entry among the prompt's.
  AnswerParts(const Tokenizer& tokenizer, const ResponseOptions& options, std::string request_id,
              std::string model, int32_t first_prompt_token, int32_t n_candidates);

  // Adds output of the candidate that the delta names.
  // REQUIRES: the last delta of the request was not added yet.
  void Add(OutputDelta delta);

  // Whether any candidate has a message that may be sent.
  bool HasMessage() const;
  // Fills `message`, which must be empty, with a message of the next candidate that has one.
  // Returns true if it is the last message of the whole answer; that one has usage and timing.
  // REQUIRES: HasMessage().
  bool TakeMessage(inference::v1::GenerateStreamResponse* message);
  // Fills `response`, which must be empty, with the whole answer of all candidates.
  // REQUIRES: the last delta was added, and no message was taken.
  void TakeResponse(inference::v1::GenerateResponse* response);

  // Estimate of the bytes that wait to be sent, without the echoed prompt.
  int64_t n_pending_bytes() const;
  // Whether a generated token of any candidate was added.
  bool any_token() const;

 private:
  // Fills usage and, if the request asks for it, timing of the whole request.
  template <typename Message>
  void FillEnd(Message* message) const;

  const bool timing_;
  std::vector<MessageQueue> candidates_;
  std::vector<bool> sent_last_;  // [n_candidates] whether the candidate's last message was taken
  int32_t n_sent_last_ = 0;      // true elements of sent_last_
  size_t next_ = 0;              // index of the candidate whose turn it is
  std::optional<FinishInfo> final_;  // from the request's last delta
};

}  // namespace bora
