// Checks requests of the public API and turns them into the engine's form: the one place that
// decides what the engine may be asked for.
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

// Facts about a call that its message does not contain.
struct CallFacts {
  std::string request_id;  // the id that answer and log report, see MakeCallRecord
  SteadyTime arrival;
  SteadyTime deadline = SteadyTime::InfiniteFuture();
};

// Which optional parts the answer has. The engine does not need to know them.
struct ResponseOptions {
  bool token_ids = false;
  bool logprobs = false;
  bool prompt_logprobs = false;
  bool timing = false;
  // The prompt's text, which precedes each candidate's completion; null unless the request asks for
  // echo. If the prompt's ids end inside a character, the text ends before that character and the
  // completion begins with it. Shared, since it may have a megabyte.
  std::shared_ptr<const std::string> echo_text;
};

struct ValidatedRequest {
  RequestSpec spec;
  ResponseOptions options;
};

// The sampling parameters of a request that sets none of them: the model's defaults, and the API's
// defaults where the model has none.
SamplingParams DefaultSampling(const SamplingDefaults& defaults);

// True for 1 to 64 characters of [A-Za-z0-9._:-].
bool IsValidRequestId(absl::string_view request_id);

// Immutable after construction; all const members may be called from any number of threads.
class RequestValidator {
 public:
  // `model` and `tokenizer` must outlive the validator. REQUIRES: model.context_length > 1.
  RequestValidator(const ModelFacts& model, const Tokenizer& tokenizer);

  // Returns the request with its prompt as token ids and every default filled in, or one error:
  //   - NOT_FOUND with MODEL_NOT_FOUND if another model is asked for;
  //   - INVALID_ARGUMENT with INVALID_FIELD if a value can never be right, or with LIMIT_EXCEEDED
  //     if values only exceed this server's limits; the error lists all such fields;
  //   - INVALID_ARGUMENT with CONTEXT_LENGTH_EXCEEDED if prompt and completion do not fit.
  // All other fields are checked before the prompt is tokenized, and a prompt whose length in bytes
  // proves that it cannot fit is not tokenized, so that a bad request costs little. A good request
  // costs the time of Tokenizer::Encode.
  std::variant<ValidatedRequest, ApiError> Validate(
      const inference::v1::GenerateStreamRequest& request, const CallFacts& call) const;
  // The same for a request of a whole answer; LIMIT_EXCEEDED also if the answer could be larger
  // than kMaxMessageBytes.
  std::variant<ValidatedRequest, ApiError> Validate(const inference::v1::GenerateRequest& request,
                                                    const CallFacts& call) const;

  // The error of a request that cannot be carried out; nullopt if it can be.
  std::optional<ApiError> Check(const inference::v1::TokenizeRequest& request) const;
  std::optional<ApiError> Check(const inference::v1::DetokenizeRequest& request) const;

  // NOT_FOUND unless `model` is this model's name, with or without "models/". An empty name is an
  // error here; a caller that lets requests omit the model must not pass it.
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
  // Fills spec->prompt_tokens, truncated from the left if the request says so. Returns an error if
  // the prompt cannot fit, or has no tokens.
  std::optional<ApiError> TokenizePrompt(const inference::v1::Prompt& prompt,
                                         RequestSpec* spec) const;
  // Fills spec->max_tokens and spec->context_limited. Returns an error if prompt and completion do
  // not fit the context. REQUIRES: spec->prompt_tokens is filled.
  std::optional<ApiError> ChooseMaxTokens(const inference::v1::StopOptions& stopping,
                                          RequestSpec* spec) const;
  // An upper bound of the bytes of a TokenLogprob message with `n_top` alternatives.
  int64_t MaxLogprobBytes(int32_t n_top) const;
  // LIMIT_EXCEEDED if the whole answer could exceed kMaxMessageBytes.
  std::optional<ApiError> CheckAnswerBytes(const ValidatedRequest& request) const;

  const ModelFacts& model_;
  const Tokenizer& tokenizer_;
  int64_t max_token_bytes_ = 0;  // the longest text of one token, as it appears in an answer
};

// 64 bits from the operating system, for requests without a seed.
uint64_t RandomSeed();

}  // namespace bora
