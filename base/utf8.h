// UTF-8 decoding rules shared by the tokenizer and the detokenizer, which must agree byte for byte:
// shortest form only, no surrogates, nothing above U+10FFFF. A byte that does not start a valid
// character is invalid by itself; decoding goes on with the next byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace bora {

// U+FFFD, the text put in the place of each invalid byte.
inline constexpr absl::string_view kUtf8Replacement = "\xEF\xBF\xBD";

// Length in bytes of the character that `lead` begins: 1 to 4; 1 also if the byte cannot begin a
// character (continuation bytes, C0, C1, F5 to FF).
inline size_t Utf8AnnouncedBytes(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  if (byte >= 0xC2 && byte <= 0xDF) return 2;
  if (byte >= 0xE0 && byte <= 0xEF) return 3;
  if (byte >= 0xF0 && byte <= 0xF4) return 4;
  return 1;
}

// Length in bytes of the valid character at the front of `text`; 0 if there is none or if it is cut
// short. REQUIRES: `text` is not empty.
inline size_t Utf8CharBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t n_bytes = Utf8AnnouncedBytes(text[0]);
  if (n_bytes == 1 || text.size() < n_bytes) return 0;
  for (size_t i = 1; i < n_bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // The second byte rules out overlong forms (after E0, F0), surrogates (ED) and code points from
  // U+110000 (F4).
  if (byte(0) == 0xE0 && byte(1) < 0xA0) return 0;
  if (byte(0) == 0xED && byte(1) > 0x9F) return 0;
  if (byte(0) == 0xF0 && byte(1) < 0x90) return 0;
  if (byte(0) == 0xF4 && byte(1) > 0x8F) return 0;
  return n_bytes;
}

// The code point at the front of `text`. REQUIRES: Utf8CharBytes(text) > 0.
inline char32_t Utf8Char(absl::string_view text) {
  const size_t n_bytes = Utf8AnnouncedBytes(text[0]);
  // The lead byte of a character of n > 1 bytes begins with n one bits and a zero bit.
  char32_t character =
      static_cast<uint8_t>(text[0]) & (n_bytes == 1 ? 0x7F : 0xFF >> (n_bytes + 1));
  for (size_t i = 1; i < n_bytes; ++i) {
    character = character << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
  }
  return character;
}

// True if `text` could become a character if more bytes follow: its lead byte announces more bytes
// than there are, and the others are continuation bytes. REQUIRES: `text` is not empty. Also true
// for a few beginnings that no valid character has (E0 80); Utf8CharBytes rejects them once they
// are complete.
inline bool IsUtf8Beginning(absl::string_view text) {
  if (text.size() >= Utf8AnnouncedBytes(text[0])) return false;
  for (size_t i = 1; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) return false;
  }
  return true;
}

// True if all of `text` is valid UTF-8. The empty text is valid.
inline bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t n_bytes = Utf8CharBytes(text);
    if (n_bytes == 0) return false;
    text.remove_prefix(n_bytes);
  }
  return true;
}

}  // namespace bora
