#include "base/steady_cond_var.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/clock.h"

namespace bora {
namespace {

TEST(SteadyTimeTest, HasInfinitiesAndDifferences) {
  const SteadyTime time = SteadyTime() + absl::Seconds(5);
  EXPECT_EQ(time - SteadyTime(), absl::Seconds(5));
  EXPECT_EQ(time.since_beginning(), absl::Seconds(5));
  EXPECT_LT(time, SteadyTime::InfiniteFuture());
  EXPECT_GT(time, SteadyTime::InfinitePast());
  EXPECT_EQ(SteadyTime::InfiniteFuture() + absl::Seconds(1), SteadyTime::InfiniteFuture());
  EXPECT_EQ(SteadyTime::InfiniteFuture() - time, absl::InfiniteDuration());
}

TEST(SteadyTimeTest, TakesOverDeadlinesOfTheSystemClock) {
  const auto system = std::chrono::system_clock::now() + std::chrono::hours(1);
  const SteadyTime before = SteadyNow();
  const SteadyTime steady = FromSystemTime(system);
  EXPECT_LE(steady, SteadyNow() + absl::Hours(1));
  EXPECT_GT(steady, before + absl::Minutes(59));
  EXPECT_EQ(FromSystemTime(std::chrono::system_clock::time_point::max()),
            SteadyTime::InfiniteFuture());
  EXPECT_GT(ToSystemTime(SteadyNow() + absl::Hours(1)), system - std::chrono::minutes(1));
  EXPECT_EQ(ToSystemTime(SteadyTime::InfiniteFuture()),
            std::chrono::system_clock::time_point::max());
}

TEST(SteadyCondVarTest, EndsAtTheDeadline) {
  absl::Mutex mutex;
  SteadyCondVar never;
  const SteadyTime deadline = SteadyNow() + absl::Milliseconds(20);
  absl::MutexLock lock(&mutex);
  while (SteadyNow() < deadline) never.WaitUntil(&mutex, deadline);
  never.WaitUntil(&mutex, SteadyTime::InfinitePast());
}

TEST(SteadyCondVarTest, WakesWhoeverWaitsWithoutLimit) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  bool done = false;
  std::thread other([&] {
    absl::MutexLock lock(&mutex);
    done = true;
    changed.Signal();
  });
  {
    absl::MutexLock lock(&mutex);
    while (!done) changed.WaitUntil(&mutex, SteadyTime::InfiniteFuture());
  }
  other.join();
}

}  // namespace
}  // namespace bora
