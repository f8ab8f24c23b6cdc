#include "coordinator/grpc/grpc_call.h"

#include <grpc/grpc.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/clock.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/grpc/api_error_status.h"

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
  // HTTP/2 counts 32 bytes for each entry beside its name and value: RFC 9113, 6.5.2.
  constexpr int64_t kEntryBytes = 32;
  int64_t n_bytes = 0;
  for (const auto& [name, value] : context.client_metadata()) {
    n_bytes += static_cast<int64_t>(name.size() + value.size()) + kEntryBytes;
  }
  if (n_bytes <= kMaxMetadataBytes) return std::nullopt;
  return MetadataTooLarge(n_bytes);
}

void Serialize(const google::protobuf::MessageLite& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();  // gRPC does not empty the buffer of the last message
  bool own_buffer = false;
  const grpc::Status status = grpc::SerializationTraits<google::protobuf::MessageLite>::Serialize(
      message, bytes, &own_buffer);
  CHECK(status.ok()) << status.error_message();
}

void ResetCall(const ApiError& error, grpc::CallbackServerContext* context) {
  // gRPC's C++ interface has no cancellation with a status of one's choice.
  grpc_call_cancel_with_status(context->c_call(),
                               static_cast<grpc_status_code>(ToGrpcCode(error.code)),
                               error.message.c_str(), nullptr);
}

}  // namespace bora
