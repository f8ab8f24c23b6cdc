// An error as clients see it: a canonical code, a stable reason, and everything that a program
// needs to react to the error. Plain data; api_errors.h makes errors, and api_error_status.h turns
// them into a grpc::Status, in exactly one function.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace bora {

// What is wrong with one field of a request.
struct FieldViolation {
  std::string field;        // dotted path: "sampling.top_p", "stopping.stop[2]"
  std::string description;  // names the value and the limit
};

// The values of google.rpc.ErrorInfo.reason. They are part of the API: clients compare them, so a
// value never changes. ErrorTable() in api_errors.h says what each of them means.
namespace reason {
inline constexpr char kInvalidField[] = "INVALID_FIELD";
inline constexpr char kContextLengthExceeded[] = "CONTEXT_LENGTH_EXCEEDED";
inline constexpr char kLimitExceeded[] = "LIMIT_EXCEEDED";
inline constexpr char kModelNotFound[] = "MODEL_NOT_FOUND";
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kNotReady[] = "NOT_READY";
inline constexpr char kDraining[] = "DRAINING";
inline constexpr char kWorkerLost[] = "WORKER_LOST";
inline constexpr char kDeadlineInQueue[] = "DEADLINE_IN_QUEUE";
inline constexpr char kDeadlineInDecode[] = "DEADLINE_IN_DECODE";
inline constexpr char kSlowConsumer[] = "SLOW_CONSUMER";
inline constexpr char kNonFiniteLogits[] = "NON_FINITE_LOGITS";
inline constexpr char kCancelled[] = "CANCELLED";
}  // namespace reason

struct ApiError {
  absl::StatusCode code = absl::StatusCode::kInternal;
  std::string reason;   // a value of namespace reason
  std::string message;  // for people; its wording may change
  // Every dynamic part of the message, so that no program has to parse the message. The keys are in
  // lowerCamelCase; ErrorRow::metadata_keys lists them for each kind of error.
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> violations;  // empty unless fields of the request are at fault
  // How long the client should wait before it sends the request again. Present exactly when the
  // same request may succeed later (ErrorRow::is_retryable, code UNAVAILABLE).
  std::optional<absl::Duration> retry_delay;
};

}  // namespace bora
