// Generate and GenerateStream over gRPC: reactors that carry the messages of a GenerateCall.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/call/call_services.h"

namespace bora {

// The reactor of a Generate call, which has begun. `response` lives as long as the call.
grpc::ServerUnaryReactor* StartGenerate(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                        const CallServices& services);

// The reactor of a GenerateStream call, which has begun.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
    const CallServices& services);

}  // namespace bora
