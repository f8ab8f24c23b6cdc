// The CPU as operations see it: a team of threads, working memory, and the inner loops for its
// instruction set.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/cpu/simd/simd_choice.h"

namespace bora {

struct SimdKernels;

struct CpuDeviceOptions {
  int n_threads = 1;                  // in [1, 1024], the calling thread included
  SimdChoice simd = BestSimdLevel();  // must name only levels that are available
  // CPUs that threads are pinned to: the calling thread to the first, where it stays pinned after
  // the device has ended, and the helpers to the following ones. With fewer CPUs than threads the
  // list starts over. Empty: no thread is pinned. Pinning is advice: a CPU that is not available
  // leaves its thread unpinned.
  std::vector<int> cpus = {};
};

// A fixed team of threads, one of which is the calling thread. Owned and used by one thread (the
// rank thread): all methods must be called by it. Helpers stay awake for some 50 us after an
// operation and then sleep.
class CpuDevice {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options);
  explicit CpuDevice(int n_threads, const SimdChoice& simd = BestSimdLevel());
  ~CpuDevice();
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  int n_threads() const { return n_threads_; }

  // Replaces the team: later operations use n_threads threads on these CPUs, both as in
  // CpuDeviceOptions.
  void Resize(int n_threads, const std::vector<int>& cpus);

  // The inner loops at the level that this device uses by default, and the choice that says which
  // operations use another level.
  const SimdKernels& simd() const { return *simd_; }
  const SimdChoice& simd_choice() const { return simd_choice_; }

  // Calls body(begin, end) on disjoint ranges that cover [0, n_items), on several threads, and
  // returns when all calls have returned. Results must not depend on where the ranges are cut:
  // every item is computed by itself. Ranges are at least `grain` items long (grain > 0) unless
  // n_items is less, so that a small amount of work stays on the calling thread. Inside a body
  // subnormal floats count as zero (FTZ and DAZ on x86). Takes no lock and allocates nothing.
  // REQUIRES: not called from inside a body.
  void ParallelFor(int64_t n_items, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body);

  // ParallelFor with the index of the calling thread of the team, in [0, n_threads), for bodies
  // that need working memory per thread.
  using ThreadBody = absl::FunctionRef<void(int thread, int64_t begin, int64_t end)>;
  void ParallelForThreads(int64_t n_items, int64_t grain, ThreadBody body);

  // Returns working memory for one operation: n_floats floats, 64-byte aligned, with undefined
  // contents, valid until the next call of Scratch or ReserveScratch. The memory grows to the
  // largest request and is then reused. Once ReserveScratch has been called with the most that any
  // operation takes, Scratch neither allocates nor fails; before that, a growth that finds no
  // memory ends the process.
  float* Scratch(int64_t n_floats);
  // Makes room for n_floats floats and touches every page of them. RESOURCE_EXHAUSTED if the memory
  // is not available; the message names the bytes.
  absl::Status ReserveScratch(int64_t n_floats);
  // Floats that are allocated now: the largest request, rounded up.
  int64_t scratch_floats() const { return scratch_floats_; }

  // What the team has done since construction or the last Resize; for benchmarks.
  struct Counters {
    int64_t n_wakes = 0;   // operations that had to wake helpers
    int64_t n_sleeps = 0;  // operations in which the owner slept until the helpers were done
  };
  Counters counters() const;

 private:
  // The helper threads and the job that they work on; null if n_threads is 1.
  class Team;
  struct FreeDeleter {
    void operator()(float* memory) const;
  };

  int n_threads_ = 0;
  const SimdChoice simd_choice_;
  const SimdKernels* const simd_;
  std::unique_ptr<Team> team_;
  std::unique_ptr<float, FreeDeleter> scratch_;
  int64_t scratch_floats_ = 0;
};

}  // namespace bora
