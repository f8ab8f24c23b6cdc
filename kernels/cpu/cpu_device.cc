#include "kernels/cpu/cpu_device.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/host/flush_subnormals.h"
#include "base/int_math.h"
#include "kernels/cpu/simd/simd.h"

namespace bora {
namespace {

// How often a waiting thread checks before it sleeps. One check takes 10-40 ns. So helpers stay
// awake over the serial work between two operations of a step (up to some 50 us) and sleep between
// steps, and a thread that waits for a partner without a core gives up its own core to it almost at
// once.
constexpr int kSpins = 2000;

// Chunks per thread. With several, a thread that loses its core for a moment delays the call by a
// fraction of its share only, and uneven items (causal attention) balance.
constexpr int64_t kChunksPerThread = 8;

// A helper that has run this long yields its core between two jobs, while it holds no chunk. The
// operating system preempts threads at ticks of 1 to 4 ms, and a thread that is preempted in the
// middle of a chunk holds up the whole team until it runs again. Measured with one foreign busy
// process on two cores: operations of 1.3 ms run at 0.51-0.63 of the rate on an idle machine with
// yielding and at 0.47-0.53 without. If no other thread waits for the core, a yield costs less than
// a microsecond.
constexpr std::chrono::microseconds kRunBeforeYield{2500};

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Sleeps until woken if `word` is `value`, else returns at once; may also return spuriously.
void FutexWait(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr);
}

// Wakes every thread that sleeps in FutexWait on `word`.
void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX);
}

// Pins the calling thread. Errors are ignored: if the CPU has gone offline or was taken from this
// process, the thread stays unpinned.
void PinThisThread(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(cpu), &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

}  // namespace

// The helpers and the one job that they work on. The owner's thread calls Run and the helpers run
// HelperLoop; takes no lock and allocates nothing after construction.
//
// A job's chunks are dealt out in advance, a contiguous run to each thread. So a thread claims
// chunks from a cache line of its own and walks through memory in order, the same rows in every
// step. A thread that has finished its run takes chunks from the far end of the other threads'
// runs. `Share::claims` holds the job's number and both ends of the run in one word, so that a
// claim can only succeed for the current job: a helper that wakes late finds no chunk left, and the
// owner never waits for it. The job's plain members are written only while no chunk is unclaimed or
// running, and read only between a claim and its completion.
//
// Sleeping without a lost wake-up: a thread that is about to sleep first announces it and then
// checks once more; a thread that has news first publishes it and then checks for sleepers. Both
// store one variable and then load another, so these accesses are seq_cst.
class CpuDevice::Team {
 public:
  // Starts n_threads - 1 helpers. cpus: as in CpuDeviceOptions; the owner pins itself.
  Team(int n_threads, absl::Span<const int> cpus) : shares_(n_threads) {
    for (int i = 1; i < n_threads; ++i) {
      const int cpu = cpus.empty() ? -1 : cpus[static_cast<size_t>(i) % cpus.size()];
      helpers_.emplace_back([this, i, cpu] {
        if (cpu >= 0) PinThisThread(cpu);
        HelperLoop(static_cast<size_t>(i));
      });
    }
  }

  ~Team() {
    stop_.store(true, std::memory_order_release);
    job_.fetch_add(1, std::memory_order_seq_cst);
    FutexWakeAll(job_);
    for (std::thread& helper : helpers_) helper.join();
  }

  // Calls body on n_chunks ranges that cover [0, n_items); returns when all calls have returned.
  void Run(int64_t n_items, int64_t n_chunks, ThreadBody body) {
    body_ = &body;
    n_items_ = n_items;
    n_chunks_ = n_chunks;
    n_finished_.store(0, std::memory_order_relaxed);
    // The owner alone changes job_, so a relaxed load sees its own last store.
    const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
    const int64_t n_threads = static_cast<int64_t>(shares_.size());
    for (int64_t i = 0; i < n_threads; ++i) {
      const Claims claims = {job, static_cast<uint32_t>(n_chunks * i / n_threads),
                             static_cast<uint32_t>(n_chunks * (i + 1) / n_threads)};
      shares_[static_cast<size_t>(i)].claims.store(claims.Pack(), std::memory_order_release);
    }
    job_.store(job, std::memory_order_seq_cst);
    if (n_sleepers_.load(std::memory_order_seq_cst) > 0) {
      ++counters_.n_wakes;
      FutexWakeAll(job_);
    }
    const int64_t n_mine = RunChunks(0);
    AwaitHelpers(static_cast<uint32_t>(n_chunks - n_mine));
  }

  Counters& counters() { return counters_; }

 private:
  using Clock = std::chrono::steady_clock;

  // The unclaimed chunks [next, end) of one thread's run, in job number `job`.
  struct Claims {
    uint32_t job;
    uint32_t next;
    uint32_t end;

    // Two bytes for each end are enough: at most 1024 threads have kChunksPerThread chunks each.
    uint64_t Pack() const { return (uint64_t{job} << 32) | (end << 16) | next; }
    static Claims Unpack(uint64_t word) {
      return {static_cast<uint32_t>(word >> 32), static_cast<uint32_t>(word & 0xffff),
              static_cast<uint32_t>((word >> 16) & 0xffff)};
    }
  };
  // A thread's claims, in a cache line of their own.
  struct alignas(64) Share {
    std::atomic<uint64_t> claims{0};
  };

  // A helper's life: runs chunks of every job that it notices until the team ends.
  void HelperLoop(size_t my_idx) {
    const FlushSubnormals flush;
    uint32_t seen = 0;
    Clock::time_point began = Clock::now();
    while (!stop_.load(std::memory_order_acquire)) {
      if (const int64_t n_mine = RunChunks(my_idx); n_mine > 0) ReportFinished(n_mine);
      if (Clock::now() - began > kRunBeforeYield) {
        sched_yield();
        began = Clock::now();
      }
      AwaitJobAfter(seen);
      seen = job_.load(std::memory_order_acquire);
    }
  }

  // Claims and runs chunks, first those of the thread's own run, until no chunk is left in any run.
  // Returns how many it ran.
  int64_t RunChunks(size_t my_idx) {
    int64_t n_run = 0;
    for (int64_t chunk = ClaimFirst(shares_[my_idx]); chunk >= 0;
         chunk = ClaimFirst(shares_[my_idx])) {
      RunChunk(my_idx, chunk);
      ++n_run;
    }
    for (size_t i = 1; i < shares_.size(); ++i) {
      Share& other = shares_[(my_idx + i) % shares_.size()];
      for (int64_t chunk = ClaimLast(other); chunk >= 0; chunk = ClaimLast(other)) {
        RunChunk(my_idx, chunk);
        ++n_run;
      }
    }
    return n_run;
  }

  void RunChunk(size_t my_idx, int64_t chunk) {
    (*body_)(static_cast<int>(my_idx), n_items_ * chunk / n_chunks_,
             n_items_ * (chunk + 1) / n_chunks_);
  }

  // Claims a chunk from the front or the back of a run. Returns -1 if none is left.
  static int64_t ClaimFirst(Share& share) {
    return Claim(share, [](Claims& claims) { return claims.next++; });
  }
  // The back: furthest from where the run's own thread works.
  static int64_t ClaimLast(Share& share) {
    return Claim(share, [](Claims& claims) { return --claims.end; });
  }
  template <typename Take>
  static int64_t Claim(Share& share, Take take) {
    uint64_t word = share.claims.load(std::memory_order_acquire);
    while (true) {
      Claims claims = Claims::Unpack(word);
      if (claims.next >= claims.end) return -1;
      const uint32_t chunk = take(claims);
      if (share.claims.compare_exchange_weak(word, claims.Pack(), std::memory_order_acq_rel,
                                             std::memory_order_acquire)) {
        return chunk;
      }
    }
  }

  // Tells the owner that a helper has run n_chunks chunks.
  void ReportFinished(int64_t n_chunks) {
    n_finished_.fetch_add(static_cast<uint32_t>(n_chunks), std::memory_order_seq_cst);
    if (owner_sleeps_.load(std::memory_order_seq_cst) != 0) FutexWakeAll(n_finished_);
  }

  // Waits until helpers have run n_chunks chunks of the current job.
  void AwaitHelpers(uint32_t n_chunks) {
    for (int i = 0; i < kSpins; ++i) {
      if (n_finished_.load(std::memory_order_acquire) == n_chunks) return;
      Pause();
    }
    ++counters_.n_sleeps;
    owner_sleeps_.store(1, std::memory_order_seq_cst);
    for (uint32_t n = n_finished_.load(std::memory_order_seq_cst); n != n_chunks;
         n = n_finished_.load(std::memory_order_seq_cst)) {
      FutexWait(n_finished_, n);
    }
    owner_sleeps_.store(0, std::memory_order_relaxed);
  }

  // Waits until the current job's number is not `seen`.
  void AwaitJobAfter(uint32_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (job_.load(std::memory_order_acquire) != seen) return;
      Pause();
    }
    n_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (job_.load(std::memory_order_seq_cst) == seen) FutexWait(job_, seen);
    n_sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  // The current job; written by the owner between jobs.
  const ThreadBody* body_ = nullptr;
  int64_t n_items_ = 0;
  int64_t n_chunks_ = 0;
  Counters counters_;

  std::vector<Share> shares_;                 // [n_threads]; the first is the owner's
  alignas(64) std::atomic<uint32_t> job_{0};  // number of the current job
  std::atomic<uint32_t> n_sleepers_{0};       // helpers that sleep or are about to
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> n_finished_{0};  // chunks of the job that helpers have run
  std::atomic<uint32_t> owner_sleeps_{0};            // 1: the owner sleeps or is about to
  std::vector<std::thread> helpers_;                 // last: the helpers use all members above
};

CpuDevice::CpuDevice(int n_threads, const SimdChoice& simd)
    : CpuDevice(CpuDeviceOptions{.n_threads = n_threads, .simd = simd}) {}

CpuDevice::CpuDevice(const CpuDeviceOptions& options)
    : simd_choice_(options.simd), simd_(&GetSimdKernels(options.simd.level)) {
  Resize(options.n_threads, options.cpus);
}

void CpuDevice::Resize(int n_threads, const std::vector<int>& cpus) {
  CHECK(n_threads >= 1 && n_threads <= 1024) << "n_threads " << n_threads << " not in [1, 1024]";
  team_.reset();
  n_threads_ = n_threads;
  if (!cpus.empty()) PinThisThread(cpus[0]);
  if (n_threads > 1) team_ = std::make_unique<Team>(n_threads, cpus);
}

CpuDevice::~CpuDevice() = default;

void CpuDevice::ParallelFor(int64_t n_items, int64_t grain,
                            absl::FunctionRef<void(int64_t, int64_t)> body) {
  ParallelForThreads(n_items, grain, [body](int, int64_t begin, int64_t end) { body(begin, end); });
}

void CpuDevice::ParallelForThreads(int64_t n_items, int64_t grain, ThreadBody body) {
  CHECK_GT(grain, 0);
  if (n_items <= 0) return;
  const FlushSubnormals flush;
  // Rounds down, so that every chunk has at least `grain` items.
  const int64_t n_chunks = std::min(n_items / grain, n_threads_ * kChunksPerThread);
  if (n_threads_ == 1 || n_chunks <= 1) {
    body(0, 0, n_items);
    return;
  }
  team_->Run(n_items, n_chunks, body);
}

CpuDevice::Counters CpuDevice::counters() const {
  return team_ == nullptr ? Counters{} : team_->counters();
}

void CpuDevice::FreeDeleter::operator()(float* memory) const { std::free(memory); }

float* CpuDevice::Scratch(int64_t n_floats) {
  CHECK_OK(ReserveScratch(n_floats));
  return scratch_.get();
}

absl::Status CpuDevice::ReserveScratch(int64_t n_floats) {
  if (n_floats <= scratch_floats_) return absl::OkStatus();
  scratch_floats_ = 0;
  scratch_.reset();
  const int64_t n_bytes = RoundUp(n_floats, 1024) * static_cast<int64_t>(sizeof(float));
  scratch_.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(n_bytes))));
  if (scratch_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("scratch: ", n_bytes, " bytes of memory are not available"));
  }
  // Writes to every page, so that the kernel provides it now and not during a step.
  std::memset(scratch_.get(), 0, static_cast<size_t>(n_bytes));
  scratch_floats_ = RoundUp(n_floats, 1024);
  return absl::OkStatus();
}

}  // namespace bora
