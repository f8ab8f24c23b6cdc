// What others say is kept short and printable.
#include "model/protocol/peer_text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "base/utf8.h"

namespace bora {
namespace {

TEST(PeerTextTest, KeepsWhatIsShortAndPrintable) {
  EXPECT_EQ(PeerText("", 8), "");
  EXPECT_EQ(PeerText("plain text", 10), "plain text");
  EXPECT_EQ(PeerText("größer 語 🙂", 64), "größer 語 🙂");
}

TEST(PeerTextTest, CutsBetweenCharacters) {
  EXPECT_EQ(PeerText("plain text", 9), "plain …");
  EXPECT_EQ(PeerText("aaaaaaaaaa語語", 15), "aaaaaaaaaa…");  // 13 bytes; 語 would leave no room
  EXPECT_EQ(PeerText("ééééé", 8), "éé…");
  EXPECT_EQ(PeerText(std::string(10 << 20, 'x'), 1024).size(), 1024u);
}

TEST(PeerTextTest, EscapesControlsAndBrokenCharacters) {
  EXPECT_EQ(PeerText("a\nb\x1b[31m\x7f", 64), "a\\x0ab\\x1b[31m\\x7f");
  EXPECT_EQ(PeerText("\xc2\x85", 64), "\\xc2\\x85");  // NEXT LINE, of C1
  EXPECT_EQ(PeerText("\xff\xc3", 64), "\\xff\\xc3");
  EXPECT_EQ(PeerText(std::string("\0", 1), 64), "\\x00");
  EXPECT_EQ(PeerText("\n\n\n", 8), "\\x0a…");  // never half an escape
}

TEST(PeerTextTest, IsAlwaysUtf8OfTheLengthAsked) {
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    std::string text(random() % 40, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const size_t max_bytes = 3 + random() % 30;
    const std::string out = PeerText(text, max_bytes);
    EXPECT_LE(out.size(), max_bytes);
    for (size_t at = 0; at < out.size();) {
      const size_t n = Utf8CharBytes(absl::string_view(out).substr(at));
      ASSERT_GT(n, 0u);
      at += n;
    }
  }
}

}  // namespace
}  // namespace bora
