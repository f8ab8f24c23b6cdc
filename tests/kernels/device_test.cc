#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_device.h"

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

// Helpers that have gone to sleep take part again, and no wake-up is lost at the moment at which a
// helper is about to sleep: gaps around the length of the spin, each call needs every chunk done.
TEST_P(CpuDeviceTest, WakesHelpersAfterGapsOfAnyLength) {
  CpuDevice device(GetParam());
  std::vector<int> visits(64, 0);
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    device.ParallelFor(64, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
    std::this_thread::sleep_for(std::chrono::microseconds(round));
  }
  EXPECT_EQ(visits, std::vector<int>(64, kRounds));
}

// One item is slow: the others of its thread's run must be taken over.
TEST_P(CpuDeviceTest, UnevenItemsAreTakenOver) {
  const int n_threads = std::max(2, GetParam());  // one would have nobody to take over
  CpuDevice device(n_threads);
  const int64_t n_items = int64_t{8} * n_threads;
  std::atomic<int64_t> n_done{0};
  // The first item is the caller's; it ends when all the others have been run by helpers.
  device.ParallelFor(n_items, 1, [&](int64_t begin, int64_t end) {
    if (begin == 0) {
      while (n_done.load() < n_items - 1) std::this_thread::yield();
    }
    n_done.fetch_add(end - begin);
  });
  EXPECT_EQ(n_done.load(), n_items);
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
  // The bounded spin before sleeping takes some 50 us; a spinning helper would take 0.5 s.
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

TEST(CpuDeviceTest, PinsItsThreadsToTheGivenCpus) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &allowed)) cpus.push_back(cpu);
  }
  const auto allowed_here = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? set : cpu_set_t{};
  };
  std::thread owner([&] {  // a thread of its own: the caller's stays pinned
    CpuDevice device(CpuDeviceOptions{.n_threads = 3, .cpus = cpus});
    std::array<std::atomic<int>, CPU_SETSIZE> n_ran_on{};
    std::atomic<int> n_started{0};
    device.ParallelFor(24, 1, [&](int64_t, int64_t) {
      if (n_started.fetch_add(1) < 3) {
        while (n_started.load() < 3) std::this_thread::yield();  // each thread runs one of these
      }
      const cpu_set_t set = allowed_here();
      EXPECT_EQ(CPU_COUNT(&set), 1);
      for (const int cpu : cpus) n_ran_on[cpu] += CPU_ISSET(static_cast<size_t>(cpu), &set) ? 1 : 0;
    });
    int n_ran = 0;
    for (const int cpu : cpus) {
      EXPECT_GT(n_ran_on[cpu].load(), 0) << "cpu " << cpu;
      n_ran += n_ran_on[cpu].load();
    }
    EXPECT_EQ(n_ran, 24);
  });
  owner.join();
}

TEST(CpuDeviceDeathTest, RefusesNoThreads) { EXPECT_DEATH(CpuDevice(0), "n_threads 0 not in"); }

}  // namespace
}  // namespace bora
