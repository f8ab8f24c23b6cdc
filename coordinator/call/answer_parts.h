// The answer of a request on its way to the client: a MessageQueue for each candidate, and the
// order in which the candidates' messages are sent.
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
  // `tokenizer` must outlive this; `first_prompt_token` is the token of the prompt that has no
  // log-probability.
  AnswerParts(const Tokenizer& tokenizer, const ResponseOptions& options, std::string request_id,
              std::string model, int32_t first_prompt_token, int32_t n_candidates);

  // REQUIRES: the last delta of the request was not added yet.
  void Add(OutputDelta delta);

  // Whether a candidate has a message that may be sent.
  bool HasMessage() const;
  // Fills `message`, which is empty; true if it is the very last.
  // REQUIRES: HasMessage().
  bool TakeMessage(inference::v1::GenerateStreamResponse* message);
  // Fills `response`, which is empty, with the whole answer.
  // REQUIRES: the last delta was added, and no message was taken.
  void TakeResponse(inference::v1::GenerateResponse* response);

  // About how many bytes wait to be sent, without the echoed prompt.
  int64_t n_pending_bytes() const;
  // Whether a token was added.
  bool any_token() const;

 private:
  // Usage and timing of the whole request.
  template <typename Message>
  void FillEnd(Message* message) const;

  const bool timing_;
  std::vector<MessageQueue> candidates_;
  std::vector<bool> sent_last_;      // the candidate's last message was taken [n_candidates]
  int32_t n_sent_last_ = 0;          // true elements of sent_last_
  size_t next_ = 0;                  // the candidate whose turn it is
  std::optional<FinishInfo> final_;  // of the request's last delta
};

}  // namespace bora
