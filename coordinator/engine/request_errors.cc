#include "coordinator/engine/request_errors.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace bora {

ApiError Unavailable(const char* reason, std::string message) {
  ApiError error;
  error.code = absl::StatusCode::kUnavailable;
  error.reason = reason;
  error.message = std::move(message);
  error.retry_delay = absl::Seconds(1);
  return error;
}

ApiError WorkersLost(const std::string& detail) {
  ApiError error =
      Unavailable(reason::kWorkerLost, absl::StrCat("the workers were lost: ", detail));
  error.metadata["detail"] = detail;
  return error;
}

ApiError DeadlinePassed(bool running, int32_t n_output_tokens) {
  ApiError error;
  error.code = absl::StatusCode::kDeadlineExceeded;
  error.reason = running ? reason::kDeadlineInDecode : reason::kDeadlineInQueue;
  error.message = running ? absl::StrCat("the deadline passed after ", n_output_tokens, " tokens")
                          : "the deadline passed in the queue";
  if (running) error.metadata["outputTokenCount"] = absl::StrCat(n_output_tokens);
  return error;
}

ApiError DeadlineTooNear(absl::Duration left, double wait_us) {
  const int64_t left_ms = absl::ToInt64Milliseconds(left);
  const int64_t wait_ms = absl::ToInt64Milliseconds(absl::Microseconds(wait_us));
  ApiError error;
  error.code = absl::StatusCode::kDeadlineExceeded;
  error.reason = reason::kDeadlineInQueue;
  error.message = absl::StrCat("the deadline is in ", left_ms,
                               " ms, the first token would come in about ", wait_ms, " ms");
  error.metadata["remainingMs"] = absl::StrCat(left_ms);
  error.metadata["predictedWaitMs"] = absl::StrCat(wait_ms);
  return error;
}

ApiError NonFiniteLogits(int32_t n_output_tokens) {
  ApiError error;
  error.code = absl::StatusCode::kInternal;
  error.reason = reason::kNonFiniteLogits;
  error.message = absl::StrCat("the model's output is not finite after ", n_output_tokens,
                               " tokens of this request");
  error.metadata["outputTokenCount"] = absl::StrCat(n_output_tokens);
  return error;
}

}  // namespace bora
