// What a gRPC call says of itself before its message is read.
#pragma once

#include <grpcpp/server_context.h>

#include <optional>

#include "coordinator/api/api_error.h"
#include "coordinator/api/call_record.h"

namespace bora {

// A record with everything that the call's context knows. The request id is the metadata
// x-request-id where that is a valid id, else a new one; a request with a field for it overrides
// it.
CallRecord MakeCallRecord(const char* method, const grpc::CallbackServerContext& context);

// LIMIT_EXCEEDED, unless the call's metadata are within kMaxMetadataBytes. gRPC lets larger ones
// pass, see SetLimits in public_server.cc.
std::optional<ApiError> CheckMetadata(const grpc::CallbackServerContext& context);

}  // namespace bora
