// Reads SentencePiece's tokenizer.model, a serialised protobuf message (ModelProto), with a wire
// format reader of its own: builds without protobuf and sanitizer builds load vocabularies too.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/config.h"
#include "model/text/tokenizer.h"

namespace bora {

// The vocabulary in the file at `path`. NOT_FOUND if there is no such file, FAILED_PRECONDITION if
// it cannot be read or is no regular file; otherwise as ParseSentencePieceModel, with the path in
// front.
absl::StatusOr<Vocabulary> LoadSentencePieceModel(const std::string& path);

// The vocabulary in a serialised ModelProto. Its contents (ids, duplicates, UTF-8, scores) are for
// Tokenizer::Create to check. INVALID_ARGUMENT names the place: bytes that are no such message, a
// model type other than BPE, a piece type that does not exist, or a normaliser with a character map
// (nmt_nfkc and its kind): text would have to be rewritten by it first.
absl::StatusOr<Vocabulary> ParseSentencePieceModel(absl::string_view bytes);

}  // namespace bora
