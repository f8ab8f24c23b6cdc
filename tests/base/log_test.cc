#include "base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

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

TEST(LogTest, CutsLongTexts) {
  const std::string exact(kMaxLogTextBytes, 'a');
  EXPECT_EQ(LogValue(exact).json(), absl::StrCat("\"", exact, "\""));
  EXPECT_EQ(LogValue(exact + "b").json(), absl::StrCat("\"", exact, "\\u2026\""));
  const std::string line = Captured([] {
    const std::string huge(60 << 20, '\xff');
    LogWarning(huge, {{"host", huge}, {"reason", huge}});
  });
  EXPECT_LT(line.size(), size_t{3 * (6 * kMaxLogTextBytes + 100)});
  EXPECT_THAT(line, HasSubstr("\\u2026\",\"reason\":"));
}

TEST(LogTest, WritesTextForPeople) {
  EXPECT_EXIT(
      {
        InitLog("worker", LogLevel::kDebug, LogFormat::kText);
        LogDebug("weights loaded", {{"model", "m"}, {"gib", 1.5}, {"why", "a \"b\"\n"}});
        _exit(0);
      },
      testing::ExitedWithCode(0),
      "^[0-9TZ:.-]+ debug worker: weights loaded model=m gib=1.5 why=\"a \\\\\"b\\\\\"\\\\n\"\n$");
}

TEST(LogTest, LevelsAndFormatsHaveNames) {
  LogLevel level = LogLevel::kInfo;
  EXPECT_TRUE(ParseLogLevel("error", &level));
  EXPECT_EQ(level, LogLevel::kError);
  EXPECT_FALSE(ParseLogLevel("ERROR", &level));
  LogFormat format = LogFormat::kJson;
  EXPECT_TRUE(ParseLogFormat("text", &format));
  EXPECT_EQ(format, LogFormat::kText);
  EXPECT_FALSE(ParseLogFormat("", &format));
}

// A pipe with no room, as the standard error of the caller.
void FillStandardError(int* reader) {
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  CHECK_EQ(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
  const std::string page(4096, 'x');
  while (write(ends[1], page.data(), page.size()) > 0) {
  }
  CHECK_EQ(fcntl(ends[1], F_SETFL, 0), 0);
  CHECK_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  *reader = ends[0];
}

// Runs the function in a process of its own and returns how that ended, as waitpid says.
template <typename Function>
int StatusOfChild(Function function) {
  const pid_t pid = fork();
  if (pid == 0) {
    function();
    _exit(0);
  }
  int status = -1;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

// Each would wait for ever if a line of the log could.
TEST(LogTest, AFullPipeHoldsUpNeitherLinesNorEnds) {
  const int exited = StatusOfChild([] {
    int reader = 0;
    FillStandardError(&reader);
    InitLog("test", LogLevel::kInfo);
    StartLogWriter();
    for (int i = 0; i < 20000; ++i) LogInfo("nobody reads this");
    FlushLog();
    WriteToStderr("nor this\n");
  });
  EXPECT_TRUE(WIFEXITED(exited) && WEXITSTATUS(exited) == 0) << exited;
  const int aborted = StatusOfChild([] {
    int reader = 0;
    FillStandardError(&reader);
    InitLog("test", LogLevel::kInfo);
    StartLogWriter();
    LogInfo("nobody reads this");
    CHECK(false) << "nor this";
  });
  EXPECT_TRUE(WIFSIGNALED(aborted) && WTERMSIG(aborted) == SIGABRT) << aborted;
}

TEST(LogTest, LinesBeforeAnAbortAreWritten) {
  for (const bool by_check : {false, true}) {
    EXPECT_DEATH(
        {
          InitLog("test", LogLevel::kInfo);
          StartLogWriter();
          for (int i = 0; i < 1000; ++i) LogInfo("line", {{"i", i}});
          if (by_check) CHECK_EQ(1, 2) << "last words";
          std::abort();
        },
        by_check ? "\"i\":999}\n.*CHECK failed: .1.==.2. .1 vs 2. last words.*\"file\":"
                 : "\"i\":999}\n");
  }
}

// Else the next file or socket that is opened would be taken for standard error.
TEST(LogTest, ClosedStandardDescriptorsAreTaken) {
  const int status = StatusOfChild([] {
    for (int fd = 0; fd < 3; ++fd) close(fd);
    InitLog("test", LogLevel::kInfo);
    StartLogWriter();
    LogInfo("into nothing");
    FlushLog();
    if (open("/dev/null", O_RDONLY) < 3) _exit(1);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace bora
