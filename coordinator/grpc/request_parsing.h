// Bytes of a request to its message. Generated services would answer bytes that do not parse (among
// them any string field that is not UTF-8) with UNIMPLEMENTED and no text, which no client can make
// sense of; so the services take raw bytes and parse them here.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <optional>

#include "absl/strings/string_view.h"
#include "coordinator/api/api_error.h"

namespace bora {

// Fills `message` from `bytes`, which may be compressed (request_compression.h), or tells what is
// wrong: INVALID_ARGUMENT with INVALID_FIELD that names the string fields that are not UTF-8, or
// the message's type if the bytes are no such message; RESOURCE_EXHAUSTED with LIMIT_EXCEEDED if
// they are more than kMaxMessageBytes, before or after decompression.
std::optional<ApiError> ParseRequest(const grpc::ByteBuffer& bytes,
                                     google::protobuf::Message* message);

// Whether ParseRequest takes so long that it must not run on a thread of gRPC, which may have as
// few as two for all callbacks: more than 16 KiB, of which tokenizing takes 5 ms at 3 MB/s, or
// compressed, so that nobody knows how many bytes it is. A request that is too large is refused at
// once.
bool TakesLong(const grpc::ByteBuffer& bytes);

// The same as ParseRequest for bytes in memory that `message`'s parser has refused: which fields
// are at fault.
ApiError DiagnoseUnparsable(absl::string_view bytes, const google::protobuf::Message& message);

}  // namespace bora
