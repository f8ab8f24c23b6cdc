// What the reactors of all methods do with their gRPC call: what it says of itself before its
// message is read, the bytes of its answers, and its ends.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <optional>

#include "coordinator/api/api_error.h"
#include "coordinator/call/call_record.h"

namespace bora {

// A record with everything that the call's context knows. The request id is the value of the
// metadata x-request-id if it is a valid id, else a new one; a request that has an id of its own
// overrides it later.
CallRecord MakeCallRecord(const char* method, const grpc::CallbackServerContext& context);

// LIMIT_EXCEEDED unless the call's metadata have at most kMaxMetadataBytes. gRPC lets larger
// metadata pass, see SetLimits in public_server.cc.
std::optional<ApiError> CheckMetadata(const grpc::CallbackServerContext& context);

// Replaces `bytes` by the message as it goes over the wire.
void Serialize(const google::protobuf::MessageLite& message, grpc::ByteBuffer* bytes);

// Ends the call at once with the error's code and message, without its details, although a write is
// under way: a status sent with Finish would wait behind the write that does not end.
void ResetCall(const ApiError& error, grpc::CallbackServerContext* context);

}  // namespace bora
