#include "base/host/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"

namespace bora {
namespace {

// Longer than any test takes: a process that gets there was not ended.
void Hang() {
  sleep(60);
  _exit(99);
}

TEST(StopSignalsTest, EndsAProcessThatHasNothingToStop) {
  for (const int signal_number : {SIGTERM, SIGINT}) {
    EXPECT_EXIT(
        {
          BlockStopSignals();
          StopSignals signals;
          kill(getpid(), signal_number);
          Hang();
        },
        testing::ExitedWithCode(0), "stopping");
  }
}

TEST(StopSignalsTest, StopsWhatRuns) {
  EXPECT_EXIT(
      {
        BlockStopSignals();
        StopSignals signals;
        signals.OnStop([] { _exit(3); }, absl::InfiniteDuration());
        kill(getpid(), SIGTERM);
        Hang();
      },
      testing::ExitedWithCode(3), "stopping");
}

TEST(StopSignalsTest, ASecondSignalEndsTheProcessAtOnce) {
  EXPECT_EXIT(
      {
        BlockStopSignals();
        StopSignals signals;
        signals.OnStop([] { kill(getpid(), SIGINT); }, absl::Minutes(1));
        kill(getpid(), SIGTERM);
        Hang();
      },
      testing::ExitedWithCode(128 + SIGINT), "second signal");
}

TEST(StopSignalsTest, EndsAProcessThatDoesNotStopInTime) {
  EXPECT_EXIT(
      {
        BlockStopSignals();
        StopSignals signals;
        signals.OnStop([] {}, absl::Milliseconds(50));
        kill(getpid(), SIGTERM);
        Hang();
      },
      testing::ExitedWithCode(70), "did not end in the time");
}

TEST(EndWithParentTest, EndsWithTheParent) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    const pid_t me = getpid();
    if (fork() == 0) {
      const char is_there = EndWithParent(me) ? 'y' : 'n';
      if (write(ends[1], &is_there, 1) != 1) _exit(1);
      Hang();
    }
    close(ends[1]);
    char is_there = 0;
    _exit(read(ends[0], &is_there, 1) == 1 && is_there == 'y' ? 0 : 1);
  }
  close(ends[1]);
  int status = 0;
  ASSERT_EQ(waitpid(parent, &status, 0), parent);
  EXPECT_EQ(status, 0);
  // The pipe's end: nobody holds it open any more.
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
  close(ends[0]);
  EXPECT_FALSE(EndWithParent(getppid() + 1));
}

}  // namespace
}  // namespace bora
