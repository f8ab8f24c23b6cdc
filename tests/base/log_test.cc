#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace bora {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(JsonQuoteTest, EscapesWhatWouldEndOrBreakTheString) {
  EXPECT_EQ(JsonQuote("plain text"), "\"plain text\"");
  EXPECT_EQ(JsonQuote(""), "\"\"");
  EXPECT_EQ(JsonQuote("a\"b\\c"), R"("a\"b\\c")");
  EXPECT_EQ(JsonQuote("line\nnext\r\t"), R"("line\nnext\u000d\u0009")");
  EXPECT_EQ(JsonQuote(absl::string_view("\0\x1b[2J\x7f", 6)), R"("\u0000\u001b[2J\u007f")");
}

TEST(JsonQuoteTest, StaysAsciiForAnyBytes) {
  EXPECT_EQ(JsonQuote("\xff"), R"("\u00ff")");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (const char ch : JsonQuote(all)) {
    EXPECT_GE(ch, 0x20);
    EXPECT_LT(ch, 0x7f);
  }
}

// What Log writes for one call.
template <typename Function>
std::string Captured(Function function) {
  testing::internal::CaptureStderr();
  function();
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, WritesOneJsonObjectALine) {
  const std::string line = Captured([] {
    LogWarning(
        "bad \"name\"",
        {{"count", 3}, {"ratio", 0.5}, {"is_new", true}, {"text", "a\nb"}, {"lost", std::nan("")}});
  });
  EXPECT_THAT(line, MatchesRegex("\\{\"time\":\"[0-9TZ:.-]+\",\"level\":\"warning\",\"component\":"
                                 "\"bora\",\"message\":\"bad .*\\}\n"));
  EXPECT_THAT(line, HasSubstr(R"("message":"bad \"name\"","count":3,"ratio":0.5,"is_new":true,)"
                              R"("text":"a\nb","lost":null})"));
}

TEST(LogTest, LeavesOutWhatIsBelowTheLevel) {
  EXPECT_EQ(Captured([] { Log(LogLevel::kDebug, "hidden"); }), "");
  EXPECT_THAT(Captured([] { Log(LogLevel::kInfo, "shown"); }), HasSubstr("shown"));
}

}  // namespace
}  // namespace bora
