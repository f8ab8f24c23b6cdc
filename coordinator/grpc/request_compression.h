// Decompresses requests that a client has compressed. gRPC inflates a whole message before it
// checks the size, so that 4 MiB on the wire may become 4 GiB in memory. Therefore gRPC's
// decompression is off on the public listener, and this one stops at a limit.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <optional>

#include "coordinator/api/api_error.h"

namespace bora {

// Whether the bytes begin with the magic number of gzip. No protobuf message does: its first byte
// would be a tag of wire type 7, which does not exist.
bool IsGzip(const grpc::ByteBuffer& bytes);

// Replaces the gzip stream in `bytes` by its decompressed content; nullopt if that succeeds.
// INVALID_ARGUMENT with INVALID_FIELD if `bytes` are not exactly one whole gzip stream.
// RESOURCE_EXHAUSTED with LIMIT_EXCEEDED if the content has more than `limit_bytes` bytes;
// inflating stops one byte beyond the limit then. `bytes` are unchanged after an error.
std::optional<ApiError> Inflate(int64_t limit_bytes, grpc::ByteBuffer* bytes);

}  // namespace bora
