// Requests of the public API, checked: the one place that decides what the engine may be asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/model_facts.h"
#include "coordinator/api/request_spec.h"
#include "model/text/tokenizer.h"

namespace bora {

// What a call knows beside its message.
struct CallFacts {
  std::string request_id;  // as it is to be reported; see MakeCallRecord
  SteadyTime arrival;
  SteadyTime deadline = SteadyTime::InfiniteFuture();
};

// What the answer has, beside what the engine must know.
struct ResponseOptions {
  bool token_ids = false;
  bool logprobs = false;
  bool prompt_logprobs = false;
  bool timing = false;
  // In front of each candidate's completion, which begins with the bytes of a character that the
  // prompt's ids begin. Null without echo; shared, since it may have a megabyte.
  std::shared_ptr<const std::string> echo_text;
};

struct ValidatedRequest {
  RequestSpec spec;
  ResponseOptions options;
};

// The parameters of a request that sets none of them: the model's values, or else the API's.
SamplingParams DefaultSampling(const SamplingDefaults& defaults);

// True for 1 to 64 characters of [A-Za-z0-9._:-].
bool IsValidRequestId(absl::string_view request_id);

// Immutable after construction; all const members may be called from any number of threads.
class RequestValidator {
 public:
  // Both must outlive this.
  RequestValidator(const ModelFacts& model, const Tokenizer& tokenizer);

  // The request with its prompt as token ids and every default filled in, or everything that is
  // wrong with it in one error: NOT_FOUND (MODEL_NOT_FOUND), else INVALID_ARGUMENT with
  // INVALID_FIELD where a value can never be right, LIMIT_EXCEEDED where it exceeds what this
  // server allows, CONTEXT_LENGTH_EXCEEDED. Fields are checked before the prompt is tokenized, and
  // a prompt is refused by its length in bytes where that proves that it cannot fit, so that a bad
  // request costs little; a good one costs what Tokenizer::Encode says.
  std::variant<ValidatedRequest, ApiError> Validate(
      const inference::v1::GenerateStreamRequest& request, const CallFacts& call) const;
  // The same, and LIMIT_EXCEEDED where the whole answer could be larger than kMaxMessageBytes.
  std::variant<ValidatedRequest, ApiError> Validate(const inference::v1::GenerateRequest& request,
                                                    const CallFacts& call) const;

  // An error, or nothing if the request can be carried out.
  std::optional<ApiError> Check(const inference::v1::TokenizeRequest& request) const;
  std::optional<ApiError> Check(const inference::v1::DetokenizeRequest& request) const;

  // NOT_FOUND unless `model` is this model's name, with or without "models/". Empty is for the
  // caller to allow.
  std::optional<ApiError> CheckModel(absl::string_view model) const;

  const ModelFacts& model() const { return model_; }
  // "models/NAME", as the API names it everywhere.
  std::string resource_name() const { return absl::StrCat("models/", model_.name); }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  enum class AnswerKind { kWhole, kStream };
  template <typename Request>
  std::variant<ValidatedRequest, ApiError> ValidateRequest(const Request& request,
                                                           const CallFacts& call,
                                                           AnswerKind kind) const;
  // Fills spec->prompt_tokens; the error if the prompt cannot fit.
  std::optional<ApiError> TokenizePrompt(const inference::v1::Prompt& prompt,
                                         RequestSpec* spec) const;
  // Fills spec->max_tokens and what depends on it.
  std::optional<ApiError> ChooseMaxTokens(const inference::v1::StopOptions& stopping,
                                          RequestSpec* spec) const;
  // An upper bound of the bytes of a TokenLogprob message with `n_top` alternatives.
  int64_t MaxLogprobBytes(int32_t n_top) const;
  std::optional<ApiError> CheckAnswerBytes(const ValidatedRequest& request) const;

  const ModelFacts& model_;
  const Tokenizer& tokenizer_;
  int64_t max_token_bytes_ = 0;  // of the text of one token, as it appears in an answer
};

// 64 bits from the operating system, for requests without a seed.
uint64_t RandomSeed();

}  // namespace bora
