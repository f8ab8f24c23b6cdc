// Parses the bytes of a request. If gRPC's generated services parsed them, a request that does not
// parse (a string field that is not UTF-8 is enough) would be answered with UNIMPLEMENTED and no
// message, which tells a client nothing. Therefore the services take raw bytes and parse them here.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <optional>

#include "absl/strings/string_view.h"
#include "coordinator/api/api_error.h"

namespace bora {

// Fills `message` from `bytes`, which may be compressed by gzip (request_compression.h); nullopt if
// that succeeds. INVALID_ARGUMENT with INVALID_FIELD if the bytes are not such a message: the error
// names the string fields that are not UTF-8, or else the message's type. RESOURCE_EXHAUSTED with
// LIMIT_EXCEEDED if there are more than kMaxMessageBytes before or after decompression.
std::optional<ApiError> ParseRequest(const grpc::ByteBuffer& bytes,
                                     google::protobuf::Message* message);

// Whether handling the request may take too long for a thread of gRPC, which may have as few as two
// threads for all callbacks. True for more than 16 KiB, whose tokenizing takes 5 ms at 3 MB/s, and
// for compressed requests, whose size is not known. False for requests above kMaxMessageBytes,
// since ParseRequest refuses them at once.
bool TakesLong(const grpc::ByteBuffer& bytes);

// The error for bytes that the parser of `message`'s type has refused: names the string fields that
// are not UTF-8, or else the type. `message` gives the type alone. Costs much more than parsing.
ApiError DiagnoseUnparsable(absl::string_view bytes, const google::protobuf::Message& message);

}  // namespace bora
