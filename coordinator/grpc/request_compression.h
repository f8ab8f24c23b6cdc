// Requests that a client has compressed. gRPC would inflate a message whole before it looks at the
// size, so that 4 MiB on the wire become 4 GiB in memory; therefore its own decompression is off on
// the public listener, and this one stops at the limit.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <optional>

#include "coordinator/api/api_error.h"

namespace bora {

// Whether the bytes begin as a gzip stream does. No message of protobuf begins so: the first byte
// would be a tag of wire type 7, which does not exist.
bool IsGzip(const grpc::ByteBuffer& bytes);

// Replaces the gzip stream `bytes` by what it holds. INVALID_FIELD if it is no whole gzip stream;
// RESOURCE_EXHAUSTED with LIMIT_EXCEEDED, and no more than `limit_bytes` inflated, if it holds more
// than `limit_bytes`.
std::optional<ApiError> Inflate(int64_t limit_bytes, grpc::ByteBuffer* bytes);

}  // namespace bora
