#include "base/host/process_limits.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>

#include "base/host/unique_fd.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

TEST(ProcessLimitsTest, TheSoftLimitIsRaisedToTheHardOne) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 50;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const DescriptorLimit limit = RaiseDescriptorLimit();
  EXPECT_EQ(limit.soft, limit.hard);
  rlimit after = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST(ProcessLimitsTest, TooFewDescriptorsAreSaidWithBothNumbers) {
  const DescriptorNeeds needs = {81, 1233};
  const absl::Status status = CheckDescriptors({80, 80}, needs);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("may have 80 open descriptors"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("needs 81 to start, 1233 at full load"));
  testing::internal::CaptureStderr();
  EXPECT_TRUE(CheckDescriptors({1232, 1232}, needs).ok());
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("\"limit\":1232,\"needed_at_full_load\":1233"));
  testing::internal::CaptureStderr();
  EXPECT_TRUE(CheckDescriptors({1233, 1233}, needs).ok());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ProcessLimitsTest, OpenDescriptorsAreCounted) {
  const int64_t before = OpenDescriptorCount();
  EXPECT_GE(before, 3);
  const UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(OpenDescriptorCount(), before + 1);
}

}  // namespace
}  // namespace bora
