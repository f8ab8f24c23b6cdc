#include "coordinator/grpc/grpc_call.h"

#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/request_validator.h"

namespace bora {

CallRecord MakeCallRecord(const char* method, const grpc::CallbackServerContext& context) {
  CallRecord record;
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

std::optional<ApiError> CheckMetadata(const grpc::CallbackServerContext& context) {
  constexpr int64_t kEntryBytes = 32;  // RFC 9113, 6.5.2
  int64_t n_bytes = 0;
  for (const auto& [name, value] : context.client_metadata()) {
    n_bytes += static_cast<int64_t>(name.size() + value.size()) + kEntryBytes;
  }
  if (n_bytes <= kMaxMetadataBytes) return std::nullopt;
  return MetadataTooLarge(n_bytes);
}

}  // namespace bora
