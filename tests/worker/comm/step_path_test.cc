// What a step calls again and again, the team of threads and the collectives, neither allocates nor
// takes a lock once it is warm. Counts operator new and pthread_mutex_lock of this process.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "tests/worker/comm/comm_test_util.h"
#include "worker/comm/mesh.h"

namespace {

std::atomic<int64_t> n_allocations{0};
std::atomic<int64_t> n_locks{0};

}  // namespace

void* operator new(size_t n_bytes) {
  n_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(n_bytes)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) {
  using Lock = int (*)(pthread_mutex_t*);
  static const Lock next = reinterpret_cast<Lock>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  n_locks.fetch_add(1, std::memory_order_relaxed);
  return next(mutex);
}

namespace bora {
namespace {

struct Counts {
  int64_t allocations = n_allocations.load();
  int64_t locks = n_locks.load();
};

class StepPathTest : public testing::Test {
 protected:
  void SetUp() override {
    Counts before;
    delete new int;
    ASSERT_EQ(n_allocations.load(), before.allocations + 1) << "the counter must work";
  }
};

TEST_F(StepPathTest, ParallelForNeitherAllocatesNorLocks) {
  CpuDevice device(2);
  std::vector<float> data(1 << 12);
  const auto run = [&] {
    device.ParallelFor(1 << 12, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) data[i] += 1.0f;
    });
    device.Scratch(1000)[0] = 0;
  };
  run();
  const Counts before;
  for (int i = 0; i < 1000; ++i) run();
  EXPECT_EQ(n_allocations.load(), before.allocations);
  EXPECT_EQ(n_locks.load(), before.locks);
}

void RunCollectives(int n_ranks, Wiring wiring, int spin_us) {
  constexpr int64_t kFloats = 100'000;
  RunRanks(
      n_ranks, wiring,
      [&](Mesh& mesh) {
        const std::vector<int> group = AllRanks(n_ranks);
        const int next = (mesh.my_rank() + 1) % n_ranks;
        const int previous = (mesh.my_rank() + n_ranks - 1) % n_ranks;
        std::vector<float> data(kFloats, 1.0f);
        std::vector<float> all(mesh.my_rank() == 0 ? n_ranks * kFloats : 0);
        std::vector<uint8_t> message(1000);
        ASSERT_TRUE(mesh.Barrier(group).ok());  // all have made their vectors
        const Counts before;
        absl::Status status;
        for (int round = 0; round < 20 && status.ok(); ++round) {
          for (const int64_t n : {int64_t{1}, int64_t{2048}, int64_t{8193}, kFloats}) {
            status.Update(mesh.AllReduceSum(group, absl::MakeSpan(data).subspan(0, n)));
          }
          status.Update(mesh.GatherTo(0, group, data, absl::MakeSpan(all)));
          status.Update(mesh.Send(next, message));
          status.Update(mesh.Recv(previous, absl::MakeSpan(message)));
        }
        status.Update(mesh.Barrier(group));
        const int64_t allocations = n_allocations.load() - before.allocations;
        const int64_t locks = n_locks.load() - before.locks;
        // Nobody reports, which allocates, before all have counted.
        status.Update(mesh.Barrier(group));
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_EQ(allocations, 0) << n_ranks << " ranks, " << WiringName(wiring);
        EXPECT_EQ(locks, 0) << n_ranks << " ranks, " << WiringName(wiring);
      },
      [&](MeshOptions* options) {
        options->max_all_reduce_floats = kFloats;
        options->spin_us = spin_us;
      });
}

TEST_F(StepPathTest, SharedMemoryCollectivesNeitherAllocateNorLock) {
  for (const int n_ranks : {2, 4}) {
    for (const int spin_us : {0, 50}) RunCollectives(n_ranks, Wiring::kSharedMemory, spin_us);
  }
}

TEST_F(StepPathTest, TcpCollectivesNeitherAllocateNorLock) {
  for (const int n_ranks : {2, 4}) RunCollectives(n_ranks, Wiring::kTcp, 0);
}

}  // namespace
}  // namespace bora
