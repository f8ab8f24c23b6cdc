#include "coordinator/api/api_errors.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/violations.h"

namespace bora {
namespace {

// With the code that gRPC itself has for calls that are too large.
ApiError CallTooLarge(std::string field, std::string value, std::string limit) {
  Violations violations;
  violations.AddLimit(std::move(field), std::move(value), std::move(limit));
  ApiError error = violations.TakeError();
  error.code = absl::StatusCode::kResourceExhausted;
  return error;
}

}  // namespace

ApiError MetadataTooLarge(int64_t n_bytes) {
  return CallTooLarge("(metadata)", absl::StrCat(n_bytes, " bytes"),
                      absl::StrCat("at most ", kMaxMetadataBytes, " bytes"));
}

ApiError MessageTooLarge(int64_t n_bytes, bool exact) {
  return CallTooLarge("(message)", absl::StrCat(exact ? "" : "at least ", n_bytes, " bytes"),
                      absl::StrCat("at most ", kMaxMessageBytes, " bytes"));
}

ApiError AnswerTooLarge(int64_t n_bytes) {
  ApiError error;
  error.code = absl::StatusCode::kInvalidArgument;
  error.reason = reason::kLimitExceeded;
  error.metadata = {{"answerBytes", absl::StrCat(n_bytes)},
                    {"limit", absl::StrCat(kMaxMessageBytes)}};
  error.message = absl::StrCat("the answer would have ", n_bytes, " bytes, more than the limit of ",
                               kMaxMessageBytes, ": ask for less in one call");
  return error;
}

ApiError SlowConsumer(int64_t n_buffered_bytes, absl::Duration timeout) {
  ApiError error;
  error.code = absl::StatusCode::kResourceExhausted;
  error.reason = reason::kSlowConsumer;
  error.metadata = {{"bufferedBytes", absl::StrCat(n_buffered_bytes)},
                    {"timeoutMs", absl::StrCat(absl::ToInt64Milliseconds(timeout))}};
  error.message =
      absl::StrCat(error.reason, ": a message was not read for ", error.metadata["timeoutMs"],
                   " ms, with ", error.metadata["bufferedBytes"], " bytes behind it");
  return error;
}

}  // namespace bora
