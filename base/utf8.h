// UTF-8 as the tokenizer and the detokenizer must agree on it: the shortest form only, no
// surrogates, nothing above U+10FFFF. A byte that starts no such character is invalid by itself,
// one byte at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace bora {

// U+FFFD, which stands for each invalid byte.
inline constexpr absl::string_view kUtf8Replacement = "\xEF\xBF\xBD";

// Bytes that the lead byte announces: 1 to 4, and 1 for a byte that cannot lead.
inline size_t Utf8AnnouncedBytes(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  if (byte >= 0xC2 && byte <= 0xDF) return 2;
  if (byte >= 0xE0 && byte <= 0xEF) return 3;
  if (byte >= 0xF0 && byte <= 0xF4) return 4;
  return 1;
}

// Bytes of the valid character at the front of `text`; 0 if there is none. `text` is not empty.
inline size_t Utf8CharBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t n_bytes = Utf8AnnouncedBytes(text[0]);
  if (n_bytes == 1 || text.size() < n_bytes) return 0;
  for (size_t i = 1; i < n_bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // The second byte excludes overlong forms (E0, F0), surrogates (ED) and U+110000 and above (F4).
  if (byte(0) == 0xE0 && byte(1) < 0xA0) return 0;
  if (byte(0) == 0xED && byte(1) > 0x9F) return 0;
  if (byte(0) == 0xF0 && byte(1) < 0x90) return 0;
  if (byte(0) == 0xF4 && byte(1) > 0x8F) return 0;
  return n_bytes;
}

// The character at the front of `text`, which starts with a valid one.
inline char32_t Utf8Char(absl::string_view text) {
  const size_t n_bytes = Utf8AnnouncedBytes(text[0]);
  // The lead byte of n > 1 bytes has n + 1 bits that say so.
  char32_t character =
      static_cast<uint8_t>(text[0]) & (n_bytes == 1 ? 0x7F : 0xFF >> (n_bytes + 1));
  for (size_t i = 1; i < n_bytes; ++i) {
    character = character << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
  }
  return character;
}

// True if `text` (not empty) is the beginning of a longer character whose other bytes may still
// come. It may be true for a few beginnings that no valid character has (E0 80): they are found
// invalid when they are complete.
inline bool IsUtf8Beginning(absl::string_view text) {
  if (text.size() >= Utf8AnnouncedBytes(text[0])) return false;
  for (size_t i = 1; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) return false;
  }
  return true;
}

// True if all of `text` is valid; the empty text is.
inline bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t n_bytes = Utf8CharBytes(text);
    if (n_bytes == 0) return false;
    text.remove_prefix(n_bytes);
  }
  return true;
}

}  // namespace bora
