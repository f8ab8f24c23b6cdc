#include "base/steady_waits.h"

#include "absl/base/config.h"

#if ABSL_LTS_RELEASE_VERSION == 20220623 && defined(__linux__)

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>

#include "absl/synchronization/internal/create_thread_identity.h"
#include "absl/synchronization/internal/kernel_timeout.h"
#include "absl/synchronization/internal/per_thread_sem.h"
#include "absl/synchronization/internal/waiter.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

static_assert(ABSL_WAITER_MODE == ABSL_WAITER_MODE_FUTEX, "a waiter is a futex");

namespace bora {
namespace {

using absl::base_internal::ThreadIdentity;
using absl::synchronization_internal::Waiter;

std::atomic<bool> in_use{false};

// A Waiter is its thread's semaphore: a count, which Waiter::Post raises before it wakes the futex.
std::atomic<int32_t>* CountOf(ThreadIdentity* identity) {
  static_assert(sizeof(Waiter) == sizeof(std::atomic<int32_t>));
  return reinterpret_cast<std::atomic<int32_t>*>(Waiter::GetWaiter(identity));
}

bool TryTake(std::atomic<int32_t>* count) {
  int32_t n = count->load(std::memory_order_relaxed);
  while (n != 0) {
    if (count->compare_exchange_weak(n, n - 1, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

// Takes one off the count, waiting for it until `deadline`.
bool Take(std::atomic<int32_t>* count, SteadyTime deadline) {
  const bool has_deadline = deadline < SteadyTime::InfiniteFuture();
  // The kernel refuses times before the clock's beginning.
  const timespec until =
      absl::ToTimespec(std::max(deadline.since_beginning(), absl::ZeroDuration()));
  while (!TryTake(count)) {
    // Without FUTEX_CLOCK_REALTIME this operation's absolute time is CLOCK_MONOTONIC's.
    const int64_t result =
        syscall(SYS_futex, count, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0,
                has_deadline ? &until : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
    if (result != 0 && errno == ETIMEDOUT) return TryTake(count);
  }
  return true;
}

}  // namespace

bool UseSteadyWaits() {
  absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  const bool never = false;
  mutex.AwaitWithTimeout(absl::Condition(&never), absl::Milliseconds(1));
  return in_use;
}

}  // namespace bora

// Abseil's extension point: its library has this function as a weak symbol.
extern "C" bool ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemWait)(
    absl::synchronization_internal::KernelTimeout timeout) {
  if (!bora::in_use.load(std::memory_order_relaxed)) bora::in_use = true;
  bora::SteadyTime deadline = bora::SteadyTime::InfiniteFuture();
  if (timeout.has_timeout()) {
    // As gRPC and Abseil made it: from the clock itself, not from absl::Now, which may follow a
    // step some seconds late.
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    deadline = bora::SteadyNow() + (absl::DurationFromTimespec(timeout.MakeAbsTimespec()) -
                                    absl::DurationFromTimespec(now));
  }
  absl::base_internal::ThreadIdentity* identity =
      absl::synchronization_internal::GetOrCreateCurrentThreadIdentity();
  if (identity->blocked_count_ptr != nullptr) ++*identity->blocked_count_ptr;
  const bool taken = bora::Take(bora::CountOf(identity), deadline);
  if (identity->blocked_count_ptr != nullptr) --*identity->blocked_count_ptr;
  return taken;
}

#else

namespace bora {

bool UseSteadyWaits() { return false; }

}  // namespace bora

#endif
