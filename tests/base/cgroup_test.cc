#include "base/host/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kMib = int64_t{1} << 20;

// A tree of control groups in a directory of its own.
class CgroupTest : public testing::Test {
 protected:
  void Write(const std::string& file, const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(root_) / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }
  void WriteV2(const std::string& group, const std::string& max, int64_t current,
               const std::string& stat) {
    Write(group + "memory.max", max);
    Write(group + "memory.current", absl::StrCat(current));
    Write(group + "memory.stat", stat);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  const std::string root_ =
      absl::StrCat(testing::TempDir(), "bora_cgroup_memory_",
                   testing::UnitTest::GetInstance()->current_test_info()->name(), "_", getpid());
};

TEST_F(CgroupTest, DirsAreTheGroupsOwnAndItsParents) {
  EXPECT_THAT(CgroupDirs("/r", "0::/a/b\n", "memory"), ElementsAre("/r/a/b", "/r/a", "/r"));
  EXPECT_THAT(CgroupDirs("/r", "0::/\n", "memory"), ElementsAre("/r"));
  EXPECT_THAT(CgroupDirs("/r", "", "memory"), IsEmpty());
  EXPECT_THAT(CgroupDirs("/r", "nonsense\n4:cpuset:/x\n", "memory"), IsEmpty());
}

TEST_F(CgroupTest, DirsOfVersionOneAreTheControllers) {
  const std::string membership = "5:memory:/x\n4:cpu,cpuacct:/y\n1:name=systemd:/z\n";
  EXPECT_THAT(CgroupDirs("/r", membership, "memory"), ElementsAre("/r/memory/x", "/r/memory"));
  EXPECT_THAT(CgroupDirs("/r", membership, "cpu"),
              ElementsAre("/r/cpu/y", "/r/cpu", "/r/cpu,cpuacct/y", "/r/cpu,cpuacct"));
}

TEST_F(CgroupTest, NothingLimitsWithoutFilesOrWithMax) {
  EXPECT_FALSE(LeastCgroupMemory(root_, "0::/a\n").has_value());
  WriteV2("a/", "max", 100 * kMib, "anon 1");
  EXPECT_FALSE(LeastCgroupMemory(root_, "0::/a\n").has_value());
}

// A worker that has read its checkpoint has filled its group with pages of the files.
TEST_F(CgroupTest, PagesOfFilesAreNotInUse) {
  WriteV2("a/", absl::StrCat(1000 * kMib), 990 * kMib,
          absl::StrCat("anon ", 100 * kMib, "\nfile ", 890 * kMib, "\nshmem ", 40 * kMib,
                       "\ninactive_anon ", 7 * kMib, "\nactive_file ", 50 * kMib,
                       "\ninactive_file ", 800 * kMib, "\nunevictable 0"));
  const auto memory = LeastCgroupMemory(root_, "0::/a\n");
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->limit_bytes, 1000 * kMib);
  EXPECT_EQ(memory->left_bytes, (1000 - 990 + 850) * kMib);
  EXPECT_EQ(memory->dir, root_ + "/a");
}

// systemd and Kubernetes put limits on slices above the process's own group.
TEST_F(CgroupTest, TheGroupThatLeavesLeastCounts) {
  WriteV2("pod/box/", absl::StrCat(800 * kMib), 100 * kMib, "inactive_file 0");
  WriteV2("pod/", absl::StrCat(900 * kMib), 500 * kMib, "inactive_file 0");
  WriteV2("", "max", 0, "inactive_file 0");
  const auto memory = LeastCgroupMemory(root_, "0::/pod/box\n");
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->left_bytes, 400 * kMib);
  EXPECT_EQ(memory->dir, root_ + "/pod");
}

TEST_F(CgroupTest, MemoryHighIsALimitToo) {
  WriteV2("a/", "max", 100 * kMib, "");
  Write("a/memory.high", absl::StrCat(300 * kMib));
  EXPECT_EQ(LeastCgroupMemory(root_, "0::/a\n")->left_bytes, 200 * kMib);
}

TEST_F(CgroupTest, WhatIsOverTheLimitLeavesNothing) {
  WriteV2("", absl::StrCat(100 * kMib), 150 * kMib, "");
  // In a container the mount is the process's own group, whatever path the host gave it.
  EXPECT_EQ(LeastCgroupMemory(root_, "0::/kubepods/pod1\n")->left_bytes, 0);
}

TEST_F(CgroupTest, ReadsVersionOne) {
  Write("memory/docker/x/memory.limit_in_bytes", absl::StrCat(500 * kMib));
  Write("memory/docker/x/memory.usage_in_bytes", absl::StrCat(450 * kMib));
  Write("memory/docker/x/memory.stat",
        absl::StrCat("cache ", 400 * kMib, "\ninactive_file 1\ntotal_inactive_file ", 300 * kMib,
                     "\ntotal_active_file ", 20 * kMib));
  Write("memory/memory.limit_in_bytes", "9223372036854771712");
  Write("memory/memory.usage_in_bytes", absl::StrCat(9000 * kMib));
  const auto memory = LeastCgroupMemory(root_, "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n");
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->left_bytes, (500 - 450 + 320) * kMib);
}

}  // namespace
}  // namespace bora
