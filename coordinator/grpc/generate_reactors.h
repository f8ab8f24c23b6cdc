// Generate and GenerateStream over gRPC: reactors that carry the messages of a GenerateCall.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/call/call_services.h"

namespace bora {

// Starts a Generate call and returns its reactor, which deletes itself at the end of the call.
// `request`, the bytes of a GenerateRequest, need only live during this function; `response` and
// `context` live as long as the call (gRPC owns them). Called on a gRPC thread; does not block.
grpc::ServerUnaryReactor* StartGenerate(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                        const CallServices& services);

// The same for a GenerateStream call; `request` has the bytes of a GenerateStreamRequest.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
    const CallServices& services);

}  // namespace bora
