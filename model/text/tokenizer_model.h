// Reads SentencePiece's tokenizer.model, a serialised protobuf message (ModelProto). Has its own
// reader of the wire format, so that builds without protobuf and sanitizer builds can load
// vocabularies too.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/config.h"
#include "model/text/tokenizer.h"

namespace bora {

// The vocabulary in the file at `path`. Errors begin with the path: NOT_FOUND if the file does not
// exist, FAILED_PRECONDITION if it cannot be read or is no regular file, INVALID_ARGUMENT if it is
// too large or a Git LFS pointer, and the errors of ParseSentencePieceModel.
absl::StatusOr<Vocabulary> LoadSentencePieceModel(const std::string& path);

// The vocabulary in a serialised ModelProto. INVALID_ARGUMENT names the place: bytes that are no
// such message, a model type other than BPE, an unknown piece type, or a normaliser with a
// character map (nmt_nfkc and similar), which would have to rewrite the text first. Ids,
// duplicates, UTF-8 and scores are not checked here; Tokenizer::Create does that.
absl::StatusOr<Vocabulary> ParseSentencePieceModel(absl::string_view bytes);

}  // namespace bora
