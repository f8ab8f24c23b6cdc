// The candidates of a request on their way to the client: a MessageQueue for each, and how their
// messages take turns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/grpc/message_queue.h"
#include "model/text/tokenizer.h"

namespace bora {

// Owned by one thread at a time.
class AnswerParts {
 public:
  // `tokenizer` must outlive this; `first_prompt_token` is the one that has no log-probability.
  AnswerParts(const Tokenizer& tokenizer, const ResponseOptions& options, std::string request_id,
              std::string model, int32_t first_prompt_token, int32_t n_candidates);

  void Add(OutputDelta delta);

  // A message may be sent.
  bool HasMessage() const;
  // Fills `message`, which is empty; true if it is the very last. Requires HasMessage.
  bool TakeMessage(inference::v1::GenerateStreamResponse* message);
  // Fills `response`, which is empty, with everything. Requires that the last delta was added.
  void TakeResponse(inference::v1::GenerateResponse* response);

  // About how many bytes wait to be sent, beside the echoed prompt.
  int64_t n_pending_bytes() const;
  bool any_token() const;

 private:
  // Usage and timing of the whole request.
  template <typename Message>
  void FillEnd(Message* message) const;

  const bool timing_;
  std::vector<MessageQueue> candidates_;
  std::vector<bool> sent_last_;  // [n_candidates]
  int32_t n_sent_last_ = 0;
  size_t next_ = 0;                   // whose turn it is
  absl::optional<FinishInfo> final_;  // of the last delta
};

}  // namespace bora
