#include "base/log_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/host/unique_fd.h"
#include "base/log_rate.h"

namespace bora {
namespace {

using ::testing::ElementsAre;

std::string Dropped(int64_t n) { return absl::StrCat("dropped ", n, "\n"); }

struct Pipe {
  UniqueFd reader;
  UniqueFd writer;
};

Pipe MakePipe() {
  int ends[2];
  CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
  CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// One with no room; what fills it is one line.
Pipe MakeFullPipe() {
  Pipe pipe = MakePipe();
  const std::string filler = std::string(4095, 'x') + "\n";
  CHECK_EQ(write(pipe.writer.get(), filler.data(), filler.size()), ssize_t{4096});
  return pipe;
}

std::vector<std::string> ReadLines(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(n));
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  EXPECT_EQ(lines.back(), "");
  lines.pop_back();
  return lines;
}

TEST(LogWriterTest, WritesLinesInTheirOrder) {
  Pipe pipe = MakePipe();
  std::vector<std::string> lines;
  std::thread reader([&] { lines = ReadLines(pipe.reader.get()); });
  {
    LogWriter writer(pipe.writer.get(), LogWriterOptions(), Dropped);
    for (int i = 0; i < 5000; ++i) writer.Push(absl::StrCat(i, "\n"), false);
    EXPECT_TRUE(writer.Flush(absl::Seconds(100)));
  }
  pipe.writer.Reset();
  reader.join();
  ASSERT_EQ(lines.size(), 5000u);
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(lines[i], absl::StrCat(i));
}

TEST(LogWriterTest, AFullPipeHoldsNobodyUpAndDropsAreCounted) {
  Pipe pipe = MakeFullPipe();
  constexpr int kLines = 20000;
  std::vector<std::string> lines;
  std::thread reader;
  {
    LogWriterOptions options;
    options.capacity_bytes = 64 << 10;
    options.reserve_bytes = 8 << 10;
    LogWriter writer(pipe.writer.get(), options, Dropped);
    // Nobody reads: this would not come back if a line could wait.
    for (int i = 0; i < kLines; ++i) writer.Push(absl::StrCat("line ", i, "\n"), false);
    EXPECT_FALSE(writer.Flush(absl::Milliseconds(5)));
    // Room is kept for lines that matter, and what is missing before one is said before it.
    writer.Push("matters\n", true);
    reader = std::thread([&] { lines = ReadLines(pipe.reader.get()); });
    EXPECT_TRUE(writer.Flush(absl::Seconds(100)));
    writer.Push("later\n", false);
  }
  pipe.writer.Reset();
  reader.join();
  lines.erase(lines.begin());  // the filler
  const auto matters = std::find(lines.begin(), lines.end(), "matters");
  ASSERT_NE(matters, lines.end());
  const int64_t n_kept = matters - lines.begin() - 1;
  EXPECT_GT(n_kept, 100);
  EXPECT_LT(n_kept, kLines);
  for (int64_t i = 0; i < n_kept; ++i) ASSERT_EQ(lines[i], absl::StrCat("line ", i));
  EXPECT_EQ(*(matters - 1), absl::StrCat("dropped ", kLines - n_kept));
  EXPECT_THAT(std::vector<std::string>(matters, lines.end()), ElementsAre("matters", "later"));
}

TEST(LogWriterTest, DropsAreReportedWithoutAnotherLine) {
  Pipe pipe = MakeFullPipe();
  LogWriterOptions options;
  options.capacity_bytes = 16 << 10;
  options.reserve_bytes = 0;
  std::vector<std::string> lines;
  std::thread reader;
  {
    LogWriter writer(pipe.writer.get(), options, Dropped);
    for (int i = 0; i < 1000; ++i) writer.Push(absl::StrCat(i, "\n"), true);
    reader = std::thread([&] { lines = ReadLines(pipe.reader.get()); });
  }
  pipe.writer.Reset();
  reader.join();
  int64_t n_dropped = 0;
  ASSERT_TRUE(absl::SimpleAtoi(absl::StripPrefix(lines.back(), "dropped "), &n_dropped));
  // Beside the filler and the report.
  EXPECT_EQ(n_dropped + static_cast<int64_t>(lines.size()) - 2, 1000);
}

TEST(LogWriterTest, ConcurrentWritersKeepTheirOwnOrder) {
  Pipe pipe = MakePipe();
  constexpr int kThreads = 8;
  constexpr int kLines = 2000;
  std::vector<std::string> lines;
  std::thread reader([&] { lines = ReadLines(pipe.reader.get()); });
  {
    LogWriter writer(pipe.writer.get(), LogWriterOptions(), Dropped);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&writer, t] {
        for (int i = 0; i < kLines; ++i) writer.Push(absl::StrCat(t, " ", i, "\n"), i % 2 == 0);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  pipe.writer.Reset();
  reader.join();
  std::map<int, int> last;
  int64_t n_accounted = 0;
  for (const std::string& line : lines) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    ASSERT_EQ(words.size(), 2u) << line;
    int64_t n = 0;
    ASSERT_TRUE(absl::SimpleAtoi(words[1], &n)) << line;
    if (words[0] == "dropped") {
      n_accounted += n;
      continue;
    }
    ++n_accounted;
    int thread = 0;
    ASSERT_TRUE(absl::SimpleAtoi(words[0], &thread)) << line;
    const auto [it, is_first] = last.emplace(thread, n);
    if (!is_first) {
      EXPECT_LT(it->second, n);
      it->second = static_cast<int>(n);
    }
  }
  EXPECT_EQ(n_accounted, kThreads * kLines);
}

TEST(LogWriterTest, ADescriptorThatRefusesCostsOnlyTheLines) {
  signal(SIGPIPE, SIG_IGN);
  Pipe pipe = MakePipe();
  pipe.reader.Reset();
  for (const int fd : {-1, pipe.writer.get()}) {
    LogWriter writer(fd, LogWriterOptions(), Dropped);
    for (int i = 0; i < 100; ++i) writer.Push("line\n", true);
    EXPECT_TRUE(writer.Flush(absl::Seconds(100))) << fd;
  }
}

// As `ulimit -f` sets it: the file ends in the middle of a line, and may grow again later.
TEST(LogWriterTest, AFileThatMayNotGrowDropsLinesUntilItMay) {
  signal(SIGXFSZ, SIG_IGN);
  const std::string path = testing::TempDir() + "/bora_log_writer_test";
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600));
  ASSERT_TRUE(file.valid());
  unlink(path.c_str());
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  {
    LogWriter writer(file.get(), LogWriterOptions(), Dropped);
    rlimit limit = before;
    limit.rlim_cur = 25;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int i = 0; i < 10; ++i) writer.Push("line 0123\n", false);
    EXPECT_TRUE(writer.Flush(absl::Seconds(100)));
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    writer.Push("again\n", false);
  }
  ASSERT_EQ(lseek(file.get(), 0, SEEK_SET), 0);
  EXPECT_THAT(ReadLines(file.get()),
              ElementsAre("line 0123", "line 0123", "line ", "dropped 8", "again"));
}

TEST(LogWriterTest, WriteWithinGivesUp) {
  Pipe pipe = MakePipe();
  const std::string text(3 * 4096, 'x');
  EXPECT_FALSE(WriteWithin(pipe.writer.get(), text, absl::Milliseconds(20)));
  EXPECT_FALSE(WriteWithin(-1, text, absl::Milliseconds(20)));
  EXPECT_TRUE(WriteWithin(-1, "", absl::Milliseconds(20)));
}

TEST(LogRateTest, CountsWhatItLeavesOut) {
  LogRate rate(absl::Milliseconds(100));
  const SteadyTime begin;
  EXPECT_EQ(rate.Take(begin), 0);
  EXPECT_EQ(rate.Take(begin + absl::Milliseconds(99)), std::nullopt);
  EXPECT_EQ(rate.Take(begin + absl::Milliseconds(99)), std::nullopt);
  EXPECT_EQ(rate.Take(begin + absl::Milliseconds(100)), 2);
  EXPECT_EQ(rate.Take(begin + absl::Milliseconds(300)), 0);
}

}  // namespace
}  // namespace bora
