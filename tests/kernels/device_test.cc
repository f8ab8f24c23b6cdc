#include "kernels/device.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>
#include <vector>

namespace bora {
namespace {

class CpuDeviceTest : public testing::TestWithParam<int> {};

TEST_P(CpuDeviceTest, ParallelForVisitsEveryItemOnce) {
  CpuDevice device(GetParam());
  for (int64_t n_items : {0, 1, 2, 3, 7, 64, 1000}) {
    for (int64_t grain : {1, 2, 5, 64, 5000}) {
      std::vector<int> visits(n_items, 0);
      device.ParallelFor(n_items, grain, [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        EXPECT_GE(end - begin, std::min(grain, n_items));
        for (int64_t i = begin; i < end; ++i) ++visits[i];
      });
      EXPECT_EQ(visits, std::vector<int>(n_items, 1)) << n_items << " by " << grain;
    }
  }
}

// Back-to-back jobs with different bodies: a helper that is late for one must not run the next
// one's chunk with the old body. The sums would show it, and TSan would.
TEST_P(CpuDeviceTest, ManyShortJobsKeepApart) {
  CpuDevice device(GetParam());
  std::vector<int64_t> items(64, 0);
  for (int64_t job = 0; job < 20000; ++job) {
    const int64_t n = 2 + job % 63;
    device.ParallelFor(n, 1, [&items, job](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) items[i] += job;
    });
    for (int64_t i = 0; i < n; ++i) items[i] -= job;
  }
  EXPECT_EQ(items, std::vector<int64_t>(64, 0));
}

TEST_P(CpuDeviceTest, IdleDeviceUsesNoProcessor) {
  CpuDevice device(GetParam());
  device.ParallelFor(64, 1, [](int64_t, int64_t) {});
  const auto cpu_seconds = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  // The bounded spin before sleeping takes some 20 us; a spinning helper would take 0.5 s.
  EXPECT_LT(cpu_seconds() - before, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Threads, CpuDeviceTest, testing::Values(1, 2, 3, 4, 9));

TEST(CpuDeviceTest, ScratchIsReusedUpToItsHighWaterMark) {
  CpuDevice device(1);
  float* const first = device.Scratch(5000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  EXPECT_EQ(device.Scratch(10), first);
  EXPECT_EQ(device.Scratch(5000), first);
}

TEST(CpuDeviceDeathTest, RefusesNoThreads) { EXPECT_DEATH(CpuDevice(0), "n_threads 0 not in"); }

}  // namespace
}  // namespace bora
