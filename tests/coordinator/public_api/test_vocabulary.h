// A vocabulary small enough to reason about, with everything that makes text hard: byte pieces,
// characters of 2, 3 and 4 bytes, pieces of several characters, spaces, control pieces.
#pragma once

#include <string>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "model/text/tokenizer.h"

namespace bora {

inline constexpr int32_t kFirstByteId = 3;
inline constexpr int32_t kFirstTextId = kFirstByteId + 256;

inline Tokenizer MakeTestTokenizer() {
  Vocabulary vocabulary;
  const auto add = [&](const std::string& text, PieceType type) {
    vocabulary.pieces.push_back({text, -static_cast<float>(vocabulary.pieces.size()), type});
  };
  add("<unk>", PieceType::kUnknown);
  add("<s>", PieceType::kControl);
  add("</s>", PieceType::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    add(absl::StrFormat("<0x%02X>", byte), PieceType::kByte);
  }
  for (const char* text : {"a", "b", "c", "\xC3\xA9", "\xE6\x97\xA5", "\xF0\x9F\x98\x80", "ab",
                           "aba", "b\xC3\xA9", "\xE2\x96\x81",
                           "\xE2\x96\x81"
                           "a",
                           "bc\xE6\x97\xA5"}) {
    add(text, PieceType::kNormal);
  }
  // The longest, for bounds that depend on it; no merge leads to it.
  add(std::string(32, 'z'), PieceType::kNormal);
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  vocabulary.byte_fallback = true;
  vocabulary.remove_extra_whitespaces = false;
  auto tokenizer = Tokenizer::Create(std::move(vocabulary));
  CHECK_OK(tokenizer.status());
  return *std::move(tokenizer);
}

}  // namespace bora
