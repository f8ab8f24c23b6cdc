#include "kernels/device.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/flush_subnormals.h"
#include "base/int_math.h"
#include "kernels/simd.h"

namespace bora {
namespace {

// A waiting thread looks this often before it sleeps. One look takes 10-20 ns, so it bridges the
// 5-20 us of serial work between two operations of a step, and an idle device costs nothing.
constexpr int kSpins = 1000;

// Chunks per thread: a thread that loses its core for a moment delays the call by a fraction of its
// share only, and uneven items (causal attention) balance. A claim costs less than 100 ns.
constexpr int64_t kChunksPerThread = 8;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Returns when `word` no longer holds `old`.
void AwaitChange(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  word.wait(old, std::memory_order_acquire);
}

}  // namespace

// The helpers and the one job they work on. Thread-safe between the owner and its helpers.
//
// `ticket_` holds the job's number, its number of chunks and the next unclaimed chunk in one word,
// so a claim can only succeed for the job that is current: a helper that wakes late finds nothing
// left and the owner never waits for it. The job's plain members are written only while no chunk is
// unclaimed or running, and read only between a claim and its completion.
class CpuDevice::Team {
 public:
  explicit Team(int n_helpers) {
    for (int i = 0; i < n_helpers; ++i) helpers_.emplace_back([this] { HelperLoop(); });
  }

  ~Team() {
    stop_.store(true, std::memory_order_release);
    wake_.fetch_add(1, std::memory_order_release);
    wake_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  void Run(int64_t n_items, int64_t n_chunks, absl::FunctionRef<void(int64_t, int64_t)> body) {
    body_ = &body;
    n_items_ = n_items;
    n_chunks_ = n_chunks;
    n_done_.store(0, std::memory_order_relaxed);
    ++job_;
    ticket_.store((uint64_t{job_} << 32) | (static_cast<uint64_t>(n_chunks) << 16),
                  std::memory_order_release);
    wake_.fetch_add(1, std::memory_order_release);
    wake_.notify_all();
    RunChunks();
    for (uint32_t done = n_done_.load(std::memory_order_acquire); done != n_chunks;
         done = n_done_.load(std::memory_order_acquire)) {
      AwaitChange(n_done_, done);
    }
  }

 private:
  void HelperLoop() {
    const FlushSubnormals flush;
    uint32_t seen = 0;
    while (!stop_.load(std::memory_order_acquire)) {
      RunChunks();
      AwaitChange(wake_, seen);
      seen = wake_.load(std::memory_order_acquire);
    }
  }

  // Claims and runs chunks until none is left.
  void RunChunks() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (true) {
      const int64_t next = static_cast<int64_t>(ticket & 0xffff);
      const int64_t n_chunks = static_cast<int64_t>((ticket >> 16) & 0xffff);
      if (next >= n_chunks) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire)) {
        continue;
      }
      (*body_)(n_items_ * next / n_chunks, n_items_ * (next + 1) / n_chunks);
      const uint32_t done = n_done_.fetch_add(1, std::memory_order_acq_rel) + 1;
      if (done == n_chunks) n_done_.notify_one();
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  const absl::FunctionRef<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t n_items_ = 0;
  int64_t n_chunks_ = 0;
  uint32_t job_ = 0;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> n_done_{0};
  std::atomic<uint32_t> wake_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> helpers_;  // last: they use all of the above
};

CpuDevice::CpuDevice(int n_threads, SimdLevel level)
    : n_threads_(n_threads), simd_(&GetSimdKernels(level)) {
  CHECK(n_threads >= 1 && n_threads <= 1024) << "n_threads " << n_threads << " not in [1, 1024]";
  if (n_threads > 1) team_ = std::make_unique<Team>(n_threads - 1);
}

CpuDevice::~CpuDevice() = default;

void CpuDevice::ParallelFor(int64_t n_items, int64_t grain,
                            absl::FunctionRef<void(int64_t, int64_t)> body) {
  CHECK_GT(grain, 0);
  if (n_items <= 0) return;
  const FlushSubnormals flush;
  const int64_t n_chunks = std::min(n_items / grain, n_threads_ * kChunksPerThread);
  if (n_threads_ == 1 || n_chunks <= 1) {
    body(0, n_items);
    return;
  }
  team_->Run(n_items, n_chunks, body);
}

void CpuDevice::FreeDeleter::operator()(float* memory) const { std::free(memory); }

float* CpuDevice::Scratch(int64_t n_floats) {
  if (n_floats > scratch_floats_) {
    scratch_floats_ = RoundUp(n_floats, 1024);
    scratch_.reset();
    scratch_.reset(static_cast<float*>(std::aligned_alloc(64, scratch_floats_ * sizeof(float))));
    CHECK(scratch_ != nullptr) << "no memory for a scratch of " << scratch_floats_ << " floats";
  }
  return scratch_.get();
}

}  // namespace bora
