// An error as clients see it: a gRPC code, a stable reason, and everything a program needs to act
// on it. Plain data; api_error_status.h turns it into a grpc::Status, in exactly one function.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace bora {

// What is wrong with one field of a request.
struct FieldViolation {
  std::string field;        // dotted path: "sampling.top_p", "stopping.stop[2]"
  std::string description;  // names the value and the limit
};

// Reasons, as in google.rpc.ErrorInfo.reason; the table is in docs/api.md.
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
inline constexpr char kInternal[] = "INTERNAL";
}  // namespace reason

struct ApiError {
  absl::StatusCode code = absl::StatusCode::kInternal;
  std::string reason;
  std::string message;
  // Every dynamic part of the message, lowerCamelCase keys.
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> violations;
  // Present exactly when a retry is worthwhile (UNAVAILABLE).
  absl::optional<absl::Duration> retry_delay;
};

// UNAVAILABLE with QUEUE_FULL. `n_waiting`, queueDepth in the metadata, is what waits now, of
// `what` the queue holds ("sequences"); it may be above the limit. The retry delay is 1 s.
inline ApiError QueueFull(absl::string_view queue, absl::string_view what, int64_t n_waiting,
                          int64_t limit) {
  ApiError error;
  error.code = absl::StatusCode::kUnavailable;
  error.reason = reason::kQueueFull;
  error.message =
      absl::StrCat("the ", queue, " queue holds ", n_waiting, " ", what, ", its limit is ", limit);
  error.metadata = {{"queue", std::string(queue)},
                    {"queueDepth", absl::StrCat(n_waiting)},
                    {"limit", absl::StrCat(limit)}};
  error.retry_delay = absl::Seconds(1);
  return error;
}

}  // namespace bora
