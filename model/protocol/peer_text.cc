#include "model/protocol/peer_text.h"

#include <cstdint>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/utf8.h"

namespace bora {
namespace {

constexpr absl::string_view kEllipsis = "…";

// Whether the UTF-8 character is a control character of Unicode: C0 (below U+0020), DEL, or C1
// (U+0080 to U+009F).
bool IsControl(absl::string_view character) {
  const auto byte = [character](size_t i) { return static_cast<uint8_t>(character[i]); };
  if (character.size() == 1) return byte(0) < 0x20 || byte(0) == 0x7f;
  return character.size() == 2 && byte(0) == 0xc2 && byte(1) < 0xa0;
}

}  // namespace

std::string PeerText(absl::string_view text, size_t max_bytes) {
  CHECK_GE(max_bytes, kEllipsis.size());
  std::string out;
  size_t cut = 0;  // longest prefix of `out` after which the ellipsis still fits
  while (!text.empty()) {
    size_t n = Utf8CharBytes(text);  // 0 if text does not begin with a valid character
    std::string escaped;
    if (n == 0) {
      n = 1;
      escaped = absl::StrFormat("\\x%02x", static_cast<uint8_t>(text[0]));
    } else if (IsControl(text.substr(0, n))) {
      for (const char c : text.substr(0, n)) {
        absl::StrAppendFormat(&escaped, "\\x%02x", static_cast<uint8_t>(c));
      }
    }
    const absl::string_view shown = escaped.empty() ? text.substr(0, n) : escaped;
    if (out.size() + shown.size() > max_bytes) {
      out.resize(cut);
      out.append(kEllipsis.data(), kEllipsis.size());
      return out;
    }
    out.append(shown.data(), shown.size());
    if (out.size() + kEllipsis.size() <= max_bytes) cut = out.size();
    text.remove_prefix(n);
  }
  return out;
}

}  // namespace bora
