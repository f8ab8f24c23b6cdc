#include "coordinator/api/api_errors.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/violations.h"

namespace bora {
namespace {

using absl::StatusCode;

// The default delay, for causes whose end cannot be predicted: workers that load, a restart.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);
// The keys of the first violation. Those of the second are "field2", "value2", "limit2" and so on,
// see Violations::TakeError.
constexpr char kViolationKeys[] = "field, value, limit, moreViolations";

constexpr ErrorRow kTable[] = {
    {.kind = ErrorKind::kInvalidField,
     .condition = "field out of range, not a number, not UTF-8, unknown token id",
     .code = StatusCode::kInvalidArgument,
     .reason = reason::kInvalidField,
     .advice = "correct the request",
     .metadata_keys = kViolationKeys,
     .details = "BadRequest with all violations"},
    {.kind = ErrorKind::kContextLengthExceeded,
     .condition = "prompt + output beyond the context",
     .code = StatusCode::kInvalidArgument,
     .reason = reason::kContextLengthExceeded,
     .advice = "shorten the prompt or have it truncated, ask for fewer tokens",
     .metadata_keys = "promptTokenCount, contextLength, maxTokens, maxPromptTokenCount",
     .details = "BadRequest"},
    {.kind = ErrorKind::kFieldLimit,
     .condition = "a field with more than this server allows, or an answer that may have more than "
                  "4 MiB",
     .code = StatusCode::kInvalidArgument,
     .reason = reason::kLimitExceeded,
     .advice = "ask for less, or use GenerateStream",
     .metadata_keys = kViolationKeys,
     .details = "BadRequest"},
    {.kind = ErrorKind::kAnswerTooLarge,
     .condition = "an answer that has more than 4 MiB",
     .code = StatusCode::kInvalidArgument,
     .reason = reason::kLimitExceeded,
     .advice = "ask for less in one call",
     .metadata_keys = "answerBytes, limit",
     .details = ""},
    {.kind = ErrorKind::kModelNotFound,
     .condition = "unknown model",
     .code = StatusCode::kNotFound,
     .reason = reason::kModelNotFound,
     .advice = "ask ListModels for the name",
     .metadata_keys = "model, servedModel",
     .details = "ResourceInfo"},
    {.kind = ErrorKind::kCallTooLarge,
     .condition = "request larger than 4 MiB, or metadata than 16 KiB",
     .code = StatusCode::kResourceExhausted,
     .reason = reason::kLimitExceeded,
     .advice = "send less",
     .metadata_keys = "field, value, limit",
     .details = "BadRequest, with the field `(message)` or `(metadata)`; none above 8 MiB, where "
                "gRPC answers"},
    {.kind = ErrorKind::kQueueFull,
     .condition = "queue full",
     .code = StatusCode::kUnavailable,
     .reason = reason::kQueueFull,
     .advice = "retry after the delay",
     .metadata_keys = "queue, queueDepth, limit",
     .details = "RetryInfo; `queue` is generation or tokenizer, `queueDepth` what waits in it now",
     .is_retryable = true,
     .is_refusal = true},
    {.kind = ErrorKind::kNotReady,
     .condition = "workers not ready",
     .code = StatusCode::kUnavailable,
     .reason = reason::kNotReady,
     .advice = "retry after the delay",
     .metadata_keys = "detail",
     .details = "RetryInfo",
     .is_retryable = true,
     .is_refusal = true},
    {.kind = ErrorKind::kDraining,
     .condition = "server is shutting down",
     .code = StatusCode::kUnavailable,
     .reason = reason::kDraining,
     .advice = "retry after the delay, at another server if there is one",
     .metadata_keys = "",
     .details = "RetryInfo",
     .is_retryable = true,
     .is_refusal = true},
    {.kind = ErrorKind::kWorkerLost,
     .condition = "a worker was lost",
     .code = StatusCode::kUnavailable,
     .reason = reason::kWorkerLost,
     .advice = "retry after the delay",
     .metadata_keys = "detail",
     .details = "RetryInfo",
     .is_retryable = true},
    {.kind = ErrorKind::kDeadlineInQueue,
     .condition = "deadline passed in the queue or will before the first token",
     .code = StatusCode::kDeadlineExceeded,
     .reason = reason::kDeadlineInQueue,
     .advice = "allow more time",
     .metadata_keys = "remainingMs, predictedWaitMs",
     .details = "",
     .is_refusal = true},
    {.kind = ErrorKind::kDeadlineInDecode,
     .condition = "deadline passed while running",
     .code = StatusCode::kDeadlineExceeded,
     .reason = reason::kDeadlineInDecode,
     .advice = "allow more time, or set a `time_limit`, which is a success",
     .metadata_keys = "outputTokenCount",
     .details = ""},
    {.kind = ErrorKind::kSlowConsumer,
     .condition = "reader too slow",
     .code = StatusCode::kResourceExhausted,
     .reason = reason::kSlowConsumer,
     .advice = "read faster",
     .metadata_keys = "bufferedBytes, timeoutMs",
     .details = "none reach the client: the status message begins with the reason"},
    {.kind = ErrorKind::kNonFiniteLogits,
     .condition = "the model's output is not finite",
     .code = StatusCode::kInternal,
     .reason = reason::kNonFiniteLogits,
     .advice = "tell the operator",
     .metadata_keys = "outputTokenCount",
     .details = ""},
    {.kind = ErrorKind::kCancelled,
     .condition = "the client has cancelled",
     .code = StatusCode::kCancelled,
     .reason = reason::kCancelled,
     .advice = "",
     .metadata_keys = "",
     .details = "in the access log only: nobody is there to get any"},
};

// RowOf indexes the table by kind: checked at compile time.
constexpr bool IsInOrder() {
  for (size_t i = 0; i < std::size(kTable); ++i) {
    if (kTable[i].kind != static_cast<ErrorKind>(i)) return false;
  }
  return true;
}
static_assert(IsInOrder());

// A violation of a limit as any other, but with the code RESOURCE_EXHAUSTED, which gRPC itself uses
// for messages that are too large.
ApiError CallTooLarge(std::string field, std::string value, std::string limit) {
  Violations violations;
  violations.AddLimit(std::move(field), std::move(value), std::move(limit));
  ApiError error = violations.TakeError();
  error.code = RowOf(ErrorKind::kCallTooLarge).code;
  return error;
}

}  // namespace

absl::Span<const ErrorRow> ErrorTable() { return kTable; }

const ErrorRow& RowOf(ErrorKind kind) {
  CHECK_LT(static_cast<size_t>(kind), std::size(kTable));
  return kTable[static_cast<size_t>(kind)];
}

bool IsRefusal(absl::string_view reason) {
  return std::any_of(std::begin(kTable), std::end(kTable), [reason](const ErrorRow& row) {
    return row.is_refusal && row.reason == reason;
  });
}

ApiError MakeApiError(ErrorKind kind, std::string message,
                      std::map<std::string, std::string> metadata) {
  const ErrorRow& row = RowOf(kind);
  ApiError error;
  error.code = row.code;
  error.reason = row.reason;
  error.message = std::move(message);
  error.metadata = std::move(metadata);
  if (row.is_retryable) error.retry_delay = kRetryDelay;
  return error;
}

ApiError ContextLengthExceeded(int64_t n_prompt_tokens, bool exact,
                               std::optional<int64_t> max_tokens, int32_t context_length) {
  const std::string n_prompt = absl::StrCat(exact ? "" : "at least ", n_prompt_tokens, " tokens");
  ApiError error = MakeApiError(ErrorKind::kContextLengthExceeded, "",
                                {{"promptTokenCount", absl::StrCat(n_prompt_tokens)},
                                 {"contextLength", absl::StrCat(context_length)}});
  if (max_tokens.has_value()) error.metadata["maxTokens"] = absl::StrCat(*max_tokens);
  // Every request generates at least one token, so the prompt must leave room for one.
  if (n_prompt_tokens >= context_length || !max_tokens.has_value()) {
    const std::string n_allowed = absl::StrCat(context_length - 1);
    error.metadata["maxPromptTokenCount"] = n_allowed;
    error.message = absl::StrCat("the prompt has ", n_prompt, "; it must have at most ", n_allowed,
                                 ", one less than the context length of ", context_length);
    error.violations.push_back(
        {"prompt", absl::StrCat("has ", n_prompt, "; it must have at most ", n_allowed)});
    return error;
  }
  error.message = absl::StrCat("the prompt has ", n_prompt, " and max_tokens is ", *max_tokens,
                               ": together more than the context length of ", context_length);
  error.violations.push_back(
      {"stopping.max_tokens",
       absl::StrCat("is ", *max_tokens, "; it must be in [1, ", context_length - n_prompt_tokens,
                    "] after a prompt of ", n_prompt_tokens, " tokens")});
  return error;
}

ApiError ModelNotFound(absl::string_view model, const std::string& served_model) {
  const std::string excerpt = Excerpt(model);
  return MakeApiError(
      ErrorKind::kModelNotFound,
      absl::StrCat("model \"", excerpt, "\" is not served here; ", served_model, " is"),
      {{"model", excerpt}, {"servedModel", served_model}});
}

ApiError MetadataTooLarge(int64_t n_bytes) {
  return CallTooLarge("(metadata)", absl::StrCat(n_bytes, " bytes"),
                      absl::StrCat("at most ", kMaxMetadataBytes, " bytes"));
}

ApiError MessageTooLarge(int64_t n_bytes, bool exact) {
  return CallTooLarge("(message)", absl::StrCat(exact ? "" : "at least ", n_bytes, " bytes"),
                      absl::StrCat("at most ", kMaxMessageBytes, " bytes"));
}

ApiError AnswerTooLarge(int64_t n_bytes) {
  return MakeApiError(
      ErrorKind::kAnswerTooLarge,
      absl::StrCat("the answer would have ", n_bytes, " bytes, more than the limit of ",
                   kMaxMessageBytes, ": ask for less in one call"),
      {{"answerBytes", absl::StrCat(n_bytes)}, {"limit", absl::StrCat(kMaxMessageBytes)}});
}

ApiError QueueFull(absl::string_view queue, absl::string_view what, int64_t n_waiting,
                   int64_t limit) {
  return MakeApiError(
      ErrorKind::kQueueFull,
      absl::StrCat("the ", queue, " queue holds ", n_waiting, " ", what, ", its limit is ", limit),
      {{"queue", std::string(queue)},
       {"queueDepth", absl::StrCat(n_waiting)},
       {"limit", absl::StrCat(limit)}});
}

ApiError NotReady(const std::string& detail) {
  return MakeApiError(ErrorKind::kNotReady, absl::StrCat("the workers are not ready: ", detail),
                      {{"detail", detail}});
}

ApiError Draining() { return MakeApiError(ErrorKind::kDraining, "the server is shutting down"); }

ApiError EndedByShutdown() {
  return MakeApiError(ErrorKind::kDraining, "the server shut down before the request ended");
}

ApiError WorkerLost(const std::string& detail) {
  return MakeApiError(ErrorKind::kWorkerLost, absl::StrCat("the workers were lost: ", detail),
                      {{"detail", detail}});
}

ApiError DeadlineInQueue() {
  return MakeApiError(ErrorKind::kDeadlineInQueue, "the deadline passed in the queue");
}

ApiError DeadlineBeforeFirstToken(absl::Duration left, absl::Duration wait) {
  const std::string left_ms = absl::StrCat(absl::ToInt64Milliseconds(left));
  const std::string wait_ms = absl::StrCat(absl::ToInt64Milliseconds(wait));
  return MakeApiError(ErrorKind::kDeadlineInQueue,
                      absl::StrCat("the deadline is in ", left_ms,
                                   " ms, the first token would come in about ", wait_ms, " ms"),
                      {{"remainingMs", left_ms}, {"predictedWaitMs", wait_ms}});
}

ApiError DeadlineInDecode(int64_t n_output_tokens) {
  const std::string n_tokens = absl::StrCat(n_output_tokens);
  return MakeApiError(ErrorKind::kDeadlineInDecode,
                      absl::StrCat("the deadline passed after ", n_tokens, " tokens"),
                      {{"outputTokenCount", n_tokens}});
}

ApiError SlowConsumer(int64_t n_buffered_bytes, absl::Duration timeout) {
  const std::string n_bytes = absl::StrCat(n_buffered_bytes);
  const std::string timeout_ms = absl::StrCat(absl::ToInt64Milliseconds(timeout));
  // The reason is in the message, since a call that is reset carries no details.
  return MakeApiError(ErrorKind::kSlowConsumer,
                      absl::StrCat(reason::kSlowConsumer, ": a message was not read for ",
                                   timeout_ms, " ms, with ", n_bytes, " bytes behind it"),
                      {{"bufferedBytes", n_bytes}, {"timeoutMs", timeout_ms}});
}

ApiError NonFiniteLogits(int64_t n_output_tokens) {
  const std::string n_tokens = absl::StrCat(n_output_tokens);
  return MakeApiError(
      ErrorKind::kNonFiniteLogits,
      absl::StrCat("the model's output is not finite after ", n_tokens, " tokens of this request"),
      {{"outputTokenCount", n_tokens}});
}

}  // namespace bora
