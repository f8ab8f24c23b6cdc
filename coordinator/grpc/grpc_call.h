// Functions that the reactors of all methods need for their gRPC call: its record and the check of
// its metadata before the message is read, the bytes of its answers, and its abrupt end.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <optional>

#include "coordinator/api/api_error.h"
#include "coordinator/call/call_record.h"

namespace bora {

// A record with the facts that the call's context has: peer, deadline, request id; the arrival is
// now. `method` must be a string literal. The request id is the value of the metadata x-request-id
// if that is a valid id, else a random one of 16 hexadecimal digits; an id in the request's message
// replaces it later.
CallRecord MakeCallRecord(const char* method, const grpc::CallbackServerContext& context);

// RESOURCE_EXHAUSTED with LIMIT_EXCEEDED if the call's metadata have more than kMaxMetadataBytes.
// gRPC's own limit is higher, so that such a call gets an answer: see SetLimits in
// public_server.cc.
std::optional<ApiError> CheckMetadata(const grpc::CallbackServerContext& context);

// Replaces the content of `bytes` by the serialised message.
void Serialize(const google::protobuf::MessageLite& message, grpc::ByteBuffer* bytes);

// Ends the call at once with the error's code and message, without its details. For a call with a
// write that does not end: the status of Finish would wait behind that write.
void ResetCall(const ApiError& error, grpc::CallbackServerContext* context);

}  // namespace bora
