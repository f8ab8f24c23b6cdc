#include "base/steady_waits.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {
namespace {

TEST(SteadyWaitsTest, StandInForThoseOfAbseil) { EXPECT_TRUE(UseSteadyWaits()); }

TEST(SteadyWaitsTest, EndAtTheirDeadline) {
  const SteadyTime begin = SteadyNow();
  absl::Notification never;
  EXPECT_FALSE(never.WaitForNotificationWithTimeout(absl::Milliseconds(20)));
  EXPECT_GE(SteadyNow() - begin, absl::Milliseconds(19));
  EXPECT_FALSE(never.WaitForNotificationWithDeadline(absl::InfinitePast()));
}

TEST(SteadyWaitsTest, EndWhenWhatTheyWaitForComes) {
  for (int i = 0; i < 100; ++i) {
    absl::Notification with_limit;
    absl::Notification without_limit;
    std::thread other([&] {
      with_limit.Notify();
      without_limit.Notify();
    });
    EXPECT_TRUE(with_limit.WaitForNotificationWithTimeout(absl::Minutes(1)));
    without_limit.WaitForNotification();
    other.join();
  }
}

}  // namespace
}  // namespace bora
