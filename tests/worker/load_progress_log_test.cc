#include "worker/stage/load_progress_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bora {
namespace {

using ::testing::HasSubstr;

TEST(LoadProgressLogTest, ALineEveryFiveSecondsSaysWhenTheLoadEnds) {
  constexpr int64_t kGiB = int64_t{1} << 30;
  const absl::Duration begin = absl::Seconds(100);
  LoadProgressLog log(begin);
  testing::internal::CaptureStderr();
  log.Update(begin + absl::Seconds(4), kGiB, 8 * kGiB);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  log.Update(begin + absl::Seconds(5), 2 * kGiB, 8 * kGiB);
  log.Update(begin + absl::Seconds(9), 3 * kGiB, 8 * kGiB);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("\"message\":\"loading\",\"percent\":25,\"gib\":2,\"of_gib\":8,"
                        "\"gb_per_s\":0.429497,\"eta_s\":15}\n"));
  // Who has loaded everything says so in a line of its own.
  testing::internal::CaptureStderr();
  log.Update(begin + absl::Seconds(20), 8 * kGiB, 8 * kGiB);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace bora
