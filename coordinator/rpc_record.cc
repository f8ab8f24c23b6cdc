#include "coordinator/rpc_record.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "coordinator/model_facts.h"
#include "coordinator/request_validator.h"
#include "coordinator/violations.h"

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

RpcRecord MakeRpcRecord(const char* method, const grpc::CallbackServerContext& context) {
  RpcRecord record;
  record.method = method;
  record.arrival = SteadyNow();
  record.peer = context.peer();
  record.deadline = FromSystemTime(context.deadline());
  const auto header = context.client_metadata().find("x-request-id");
  if (header != context.client_metadata().end()) {
    const absl::string_view value(header->second.data(), header->second.size());
    if (IsValidRequestId(value)) record.request_id = std::string(value);
  }
  if (record.request_id.empty()) record.request_id = absl::StrFormat("%016x", RandomSeed());
  return record;
}

void RecordCancelled(RpcRecord* record) {
  const bool expired = SteadyNow() >= record->deadline;
  record->code = expired ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled;
  record->reason = reason::kCancelled;
}

std::optional<ApiError> CheckMetadata(const grpc::CallbackServerContext& context) {
  constexpr int64_t kEntryBytes = 32;  // RFC 9113, 6.5.2
  int64_t n_bytes = 0;
  for (const auto& [name, value] : context.client_metadata()) {
    n_bytes += static_cast<int64_t>(name.size() + value.size()) + kEntryBytes;
  }
  if (n_bytes <= kMaxMetadataBytes) return std::nullopt;
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

}  // namespace bora
