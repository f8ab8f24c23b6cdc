// Serialises protobuf messages of the worker port to the bytes that gRPC sends.
#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include "base/check.h"

namespace bora {

// The bytes of a generated message. This process builds all the messages that it serialises, so a
// failure is a bug and ends the process.
template <typename Message>
grpc::ByteBuffer Serialize(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  const grpc::Status status =
      grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer);
  CHECK(status.ok()) << status.error_message();
  return bytes;
}

}  // namespace bora
