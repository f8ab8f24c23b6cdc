// The CPU as operations see it: a team of threads and working memory.
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
  int n_threads = 1;                  // >= 1, with the caller's
  SimdChoice simd = BestSimdLevel();  // of levels that must be available
  // Where threads are pinned, the caller's (for good) to the first, its helpers to the following
  // ones, from the beginning again when there are fewer CPUs than threads. Empty: nowhere.
  std::vector<int> cpus = {};
};

// A fixed team of threads; the caller's thread is one of them. Owned and used by one thread (the
// rank thread). Helpers stay awake for some 50 us after an operation and then sleep.
class CpuDevice {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options);
  explicit CpuDevice(int n_threads, const SimdChoice& simd = BestSimdLevel());
  ~CpuDevice();
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  int n_threads() const { return n_threads_; }

  // Another number of threads and other CPUs, as in CpuDeviceOptions, for what comes after.
  void Resize(int n_threads, const std::vector<int>& cpus);

  // The inner loops for this device's instruction set, and which operations take others.
  const SimdKernels& simd() const { return *simd_; }
  const SimdChoice& simd_choice() const { return simd_choice_; }

  // Calls body(begin, end) on disjoint ranges that cover [0, n_items), and returns when all have
  // returned. Where the ranges are cut must not influence results: every item is computed by
  // itself. Ranges are at least `grain` items (> 0) long, so that little work stays on one thread.
  // Inside a body subnormal floats count as zero (FTZ and DAZ on x86).
  // Must not be called from inside a body. Takes no lock and allocates nothing.
  void ParallelFor(int64_t n_items, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body);

  // The same with the number of the thread, in [0, n_threads), for working memory of its own.
  using ThreadBody = absl::FunctionRef<void(int thread, int64_t begin, int64_t end)>;
  void ParallelForThreads(int64_t n_items, int64_t grain, ThreadBody body);

  // Working memory of one operation: n_floats floats, 64-byte aligned, with the contents undefined;
  // valid until the next call. It grows to the largest request and is then reused. Once
  // ReserveScratch has had the most that any operation takes, it neither allocates nor fails; a
  // growth for which there is no memory is a CHECK.
  float* Scratch(int64_t n_floats);
  // Makes room for that much, with every page there. RESOURCE_EXHAUSTED names the bytes.
  absl::Status ReserveScratch(int64_t n_floats);
  // What the largest request got.
  int64_t scratch_floats() const { return scratch_floats_; }

  // What the team has done since construction, for benchmarks.
  struct Counters {
    int64_t n_wakes = 0;   // calls that had to wake helpers
    int64_t n_sleeps = 0;  // calls in which the caller slept until a helper was done
  };
  Counters counters() const;

 private:
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
