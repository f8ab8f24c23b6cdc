// Every error of the public API: one table that says what each is, and the functions that make
// them. The table of docs/api.md is this one; a test compares the two.
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

// A row of the table. Kinds of the same reason differ in their code or in what comes with them.
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
  const char* condition;  // when it comes
  absl::StatusCode code;
  const char* reason;
  const char* advice;         // what the client may do
  const char* metadata_keys;  // separated by ", "; some errors of the kind lack some of them
  const char* details;        // beside ErrorInfo and RequestInfo
  // The same request may succeed later: the error has a retry delay, which becomes RetryInfo.
  bool is_retryable = false;
  // A server without room says it to any number of calls, so that the access log counts it.
  bool is_refusal = false;
};

// All rows, in the order of ErrorKind.
absl::Span<const ErrorRow> ErrorTable();
const ErrorRow& RowOf(ErrorKind kind);

// Whether errors with this reason are refusals, see ErrorRow.
bool IsRefusal(absl::string_view reason);

// An error of this kind; the retry delay of a retryable one is 1 s.
ApiError MakeApiError(ErrorKind kind, std::string message,
                      std::map<std::string, std::string> metadata = {});

// kContextLengthExceeded. The prompt has n_prompt_tokens, or at least n_prompt_tokens unless
// `exact`; `max_tokens` is absent if the request has none.
ApiError ContextLengthExceeded(int64_t n_prompt_tokens, bool exact,
                               std::optional<int64_t> max_tokens, int32_t context_length);

// kModelNotFound: `model`, which a client has sent, is not `served_model`.
ApiError ModelNotFound(absl::string_view model, const std::string& served_model);

// kCallTooLarge: the metadata of a call have n_bytes, more than kMaxMetadataBytes.
ApiError MetadataTooLarge(int64_t n_bytes);

// kCallTooLarge: a request has n_bytes, or at least n_bytes unless `exact`, more than
// kMaxMessageBytes.
ApiError MessageTooLarge(int64_t n_bytes, bool exact);

// kAnswerTooLarge: the answer would have n_bytes, more than kMaxMessageBytes.
ApiError AnswerTooLarge(int64_t n_bytes);

// kQueueFull: `queue` holds n_waiting of `what` ("sequences") now, which may be above its limit.
ApiError QueueFull(absl::string_view queue, absl::string_view what, int64_t n_waiting,
                   int64_t limit);

// kNotReady: `detail` says what the group of workers waits for.
ApiError NotReady(const std::string& detail);

// kDraining: of a call that came too late, or else of a request that has not ended in time.
ApiError Draining();
ApiError EndedByShutdown();

// kWorkerLost: `detail` says which worker, and why.
ApiError WorkerLost(const std::string& detail);

// kDeadlineInQueue: the deadline has passed, or it is `left` from now and the first token is
// predicted in `wait`.
ApiError DeadlineInQueue();
ApiError DeadlineBeforeFirstToken(absl::Duration left, absl::Duration wait);

// kDeadlineInDecode, after so many tokens.
ApiError DeadlineInDecode(int64_t n_output_tokens);

// kSlowConsumer: the client has not read a message for `timeout`, and n_buffered_bytes wait behind
// it.
ApiError SlowConsumer(int64_t n_buffered_bytes, absl::Duration timeout);

// kNonFiniteLogits, after so many tokens.
ApiError NonFiniteLogits(int64_t n_output_tokens);

}  // namespace bora
