#include "base/host/host_cpus.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"

namespace bora {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

class CpuQuotaTest : public testing::Test {
 protected:
  void Write(const std::string& file, const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(root_) / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  const std::string root_ =
      absl::StrCat(testing::TempDir(), "bora_cgroup_",
                   testing::UnitTest::GetInstance()->current_test_info()->name(), "_", getpid());
};

TEST_F(CpuQuotaTest, IsUnlimitedWithoutFiles) {
  EXPECT_EQ(CpuQuota(root_, "0::/a/b\n"), kUnlimited);
  EXPECT_EQ(CpuQuota(root_, ""), kUnlimited);
}

TEST_F(CpuQuotaTest, TakesTheLeastOfTheGroupAndItsAncestors) {
  Write("a/b/cpu.max", "400000 100000");
  Write("a/cpu.max", "150000 100000");
  Write("cpu.max", "max 100000");
  EXPECT_EQ(CpuQuota(root_, "0::/a/b\n"), 1.5);
  EXPECT_EQ(CpuQuota(root_, "0::/\n"), kUnlimited);
}

// In a container the mount is the process's own group, whatever path the host gave it.
TEST_F(CpuQuotaTest, ReadsTheMountWhenThePathIsTheHosts) {
  Write("cpu.max", "200000 100000");
  EXPECT_EQ(CpuQuota(root_, "0::/kubepods/pod1\n"), 2.0);
}

TEST_F(CpuQuotaTest, ReadsVersionOne) {
  Write("cpu,cpuacct/docker/x/cpu.cfs_quota_us", "300000");
  Write("cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000");
  Write("cpu,cpuacct/cpu.cfs_quota_us", "-1");
  Write("cpu,cpuacct/cpu.cfs_period_us", "100000");
  EXPECT_EQ(CpuQuota(root_, "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n"), 3.0);
  EXPECT_EQ(CpuQuota(root_, "4:cpuset:/docker/x\n"), kUnlimited);
}

TEST(HostCpusTest, PinnedThreadsDoNotChangeWhatTheProcessMayUse) {
  const std::vector<int> before = UsableCpus();
  ASSERT_FALSE(before.empty());
  std::thread pinned([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(before[0]), &one);
    ASSERT_EQ(pthread_setaffinity_np(pthread_self(), sizeof(one), &one), 0);
    EXPECT_EQ(UsableCpus(), before);
  });
  pinned.join();
  EXPECT_GE(UsableCpuCount(), 1);
  EXPECT_LE(UsableCpuCount(), static_cast<int>(before.size()));
}

TEST(HostCpusTest, RanksShareCpusWithoutOverlapUntilThereAreTooFew) {
  EXPECT_EQ(ThreadsPerRank(8, 3), 2);
  EXPECT_EQ(ThreadsPerRank(2, 4), 1);
  const std::vector<int> cpus = {1, 2, 5, 7};
  EXPECT_EQ(CpusOfRank(cpus, 0, 2), std::vector<int>({1, 2}));
  EXPECT_EQ(CpusOfRank(cpus, 1, 2), std::vector<int>({5, 7}));
  EXPECT_EQ(CpusOfRank(cpus, 2, 2), std::vector<int>({1, 2}));
  EXPECT_EQ(CpusOfRank(cpus, 1, 3), std::vector<int>({7, 1, 2}));
}

}  // namespace
}  // namespace bora
