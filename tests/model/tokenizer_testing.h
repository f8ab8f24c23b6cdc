// Small vocabularies and their serialised form, for the tests and the fuzzer of the tokenizer.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "model/text/tokenizer.h"

namespace bora {

// <unk> 0, <s> 1, </s> 2, then with `byte_fallback` the byte pieces 3 to 258, then `pieces`. No
// rewriting of spaces but for the space symbol.
inline Vocabulary MakeVocabulary(bool byte_fallback, const std::vector<Piece>& pieces) {
  Vocabulary vocabulary;
  vocabulary.pieces = {{"<unk>", 0, PieceType::kUnknown},
                       {"<s>", 0, PieceType::kControl},
                       {"</s>", 0, PieceType::kControl}};
  vocabulary.unk_id = 0;
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  vocabulary.byte_fallback = byte_fallback;
  vocabulary.add_dummy_prefix = false;
  vocabulary.remove_extra_whitespaces = false;
  for (int byte = 0; byte_fallback && byte < 256; ++byte) {
    vocabulary.pieces.push_back({absl::StrFormat("<0x%02X>", byte), 0, PieceType::kByte});
  }
  vocabulary.pieces.insert(vocabulary.pieces.end(), pieces.begin(), pieces.end());
  return vocabulary;
}

// The vocabulary is right by construction: anything else is a mistake of the test.
inline Tokenizer MakeTokenizer(Vocabulary vocabulary) {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(std::move(vocabulary));
  CHECK_OK(tokenizer.status());
  return *std::move(tokenizer);
}

// Serialised fields of a protobuf message.
inline std::string WireVarint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
inline std::string WireNumber(int field, uint64_t value) {
  return WireVarint(static_cast<uint64_t>(field) << 3) + WireVarint(value);
}
inline std::string WireBytes(int field, const std::string& bytes) {
  return WireVarint(static_cast<uint64_t>(field) << 3 | 2) + WireVarint(bytes.size()) + bytes;
}
inline std::string WireFloat(int field, float value) {
  char bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));  // this machine is little-endian, as the format is
  return WireVarint(static_cast<uint64_t>(field) << 3 | 5) + std::string(bytes, sizeof(value));
}

inline std::string SerializePiece(const Piece& piece) {
  return WireBytes(1, WireBytes(1, piece.text) + WireFloat(2, piece.score) +
                          WireNumber(3, static_cast<uint64_t>(piece.type)));
}

// A ModelProto of type BPE with the special ids' default names.
inline std::string SerializeModel(const Vocabulary& vocabulary) {
  std::string bytes;
  for (const Piece& piece : vocabulary.pieces) bytes += SerializePiece(piece);
  bytes += WireBytes(2, WireNumber(3, 2) + WireNumber(24, vocabulary.treat_whitespace_as_suffix) +
                            WireNumber(35, vocabulary.byte_fallback) +
                            WireBytes(44, vocabulary.unk_surface));
  bytes += WireBytes(3, WireBytes(1, "identity") + WireNumber(3, vocabulary.add_dummy_prefix) +
                            WireNumber(4, vocabulary.remove_extra_whitespaces) +
                            WireNumber(5, vocabulary.escape_whitespaces));
  return bytes;
}

}  // namespace bora
