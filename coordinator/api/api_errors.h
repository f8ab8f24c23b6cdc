// Every error of the public API: one table with a row for each kind of error, and the functions
// that make errors. docs/api.md contains the same table; a test compares the two.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/api/api_error.h"

namespace bora {

// Names a row of the table. Several kinds may have the same reason; they differ in their code or in
// their details.
enum class ErrorKind {
  kInvalidField,
  kContextLengthExceeded,
  kFieldLimit,
  kAnswerTooLarge,
  kModelNotFound,
  kCallTooLarge,
  kQueueFull,
  kNotReady,
  kDraining,
  kWorkerLost,
  kDeadlineInQueue,
  kDeadlineInDecode,
  kSlowConsumer,
  kNonFiniteLogits,
  kCancelled,
};

struct ErrorRow {
  ErrorKind kind;
  const char* condition;  // when an error of this kind occurs
  absl::StatusCode code;
  const char* reason;         // a value of namespace reason
  const char* advice;         // what the client may do about the error
  const char* metadata_keys;  // separated by ", "; an error of the kind may lack some of them
  const char* details;        // the error details that are sent beside ErrorInfo and RequestInfo
  // Whether the same request may succeed later. Such an error has a retry delay, which is sent as
  // RetryInfo.
  bool is_retryable = false;
  // Whether a server without capacity gives this error to any number of calls at a time. The access
  // log writes lines for a few refusals per second and counts the rest, so that overload does not
  // fill a disk.
  bool is_refusal = false;
};

// All rows, in the order of ErrorKind.
absl::Span<const ErrorRow> ErrorTable();
// The row of `kind`.
const ErrorRow& RowOf(ErrorKind kind);

// Whether an error with this reason is a refusal, see ErrorRow::is_refusal. False for a string that
// is no reason.
bool IsRefusal(absl::string_view reason);

// Makes an error with the code and reason of `kind`. Its retry delay is 1 s if the kind is
// retryable; the caller may replace it by a better estimate.
ApiError MakeApiError(ErrorKind kind, std::string message,
                      std::map<std::string, std::string> metadata = {});

// kContextLengthExceeded. The prompt has n_prompt_tokens tokens, or at least as many unless `exact`
// (a prompt that is too long by its bytes alone is not tokenized). `max_tokens` is nullopt if the
// request does not set it. The message blames the prompt if no completion fits behind it, and
// max_tokens otherwise.
ApiError ContextLengthExceeded(int64_t n_prompt_tokens, bool exact,
                               std::optional<int64_t> max_tokens, int32_t context_length);

// kModelNotFound: the client asks for `model`, and this server has `served_model` ("models/NAME").
ApiError ModelNotFound(absl::string_view model, const std::string& served_model);

// kCallTooLarge: the metadata of a call have n_bytes bytes, more than kMaxMetadataBytes.
ApiError MetadataTooLarge(int64_t n_bytes);

// kCallTooLarge: a request has n_bytes bytes, or at least as many unless `exact`, which is more
// than kMaxMessageBytes.
ApiError MessageTooLarge(int64_t n_bytes, bool exact);

// kAnswerTooLarge: the answer would have n_bytes bytes, more than kMaxMessageBytes.
ApiError AnswerTooLarge(int64_t n_bytes);

// kQueueFull: the queue that is named `queue` ("generation") holds n_waiting items now, and its
// limit is `limit`. `what` is the plural of an item ("sequences"). n_waiting may exceed the limit,
// since QueueQuota admits small tenants above it.
ApiError QueueFull(absl::string_view queue, absl::string_view what, int64_t n_waiting,
                   int64_t limit);

// kNotReady: the group of workers does not serve yet; `detail` says what is missing.
ApiError NotReady(const std::string& detail);

// kDraining: the call arrived after the shutdown had begun, or the engine was stopped.
ApiError Draining();
// kDraining: the request was admitted, but had not ended when the time for draining was over.
ApiError EndedByShutdown();

// kWorkerLost: the request was running or queued when a worker was lost; `detail` says which worker
// and why.
ApiError WorkerLost(const std::string& detail);

// kDeadlineInQueue: the deadline has passed before the request had a slot.
ApiError DeadlineInQueue();
// kDeadlineInQueue: the deadline is `left` from now, and the first token is predicted in `wait`,
// which is too late.
ApiError DeadlineBeforeFirstToken(absl::Duration left, absl::Duration wait);

// kDeadlineInDecode: the deadline has passed while the request ran. n_output_tokens: generated
// tokens of all its candidates until then.
ApiError DeadlineInDecode(int64_t n_output_tokens);

// kSlowConsumer: the client has not read a message for `timeout`, and n_buffered_bytes bytes of its
// answer wait behind that message.
ApiError SlowConsumer(int64_t n_buffered_bytes, absl::Duration timeout);

// kNonFiniteLogits: the model computed logits that are not finite. n_output_tokens: generated
// tokens of all candidates of the request until then.
ApiError NonFiniteLogits(int64_t n_output_tokens);

}  // namespace bora
