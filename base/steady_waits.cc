// Replaces Abseil's AbslInternalPerThreadSemWait, in which a thread sleeps until its semaphore is
// raised or a deadline passes. The file relies on internals of one Abseil version, which the
// static_asserts check; for other versions the program keeps Abseil's own waits.
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

// Set by the first wait that comes through the replacement.
std::atomic<bool> in_use{false};

// The thread's semaphore. In this Abseil a Waiter consists of one atomic count, which Waiter::Post
// raises before it wakes the futex.
std::atomic<int32_t>* CountOf(ThreadIdentity* identity) {
  static_assert(sizeof(Waiter) == sizeof(std::atomic<int32_t>));
  return reinterpret_cast<std::atomic<int32_t>*>(Waiter::GetWaiter(identity));
}

// Takes one off the count if it is above zero; never waits.
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

// Takes one off the count, waiting until `deadline` for it to be raised. False if the deadline
// passed first.
bool Take(std::atomic<int32_t>* count, SteadyTime deadline) {
  const bool has_deadline = deadline < SteadyTime::InfiniteFuture();
  // The kernel refuses negative times.
  const timespec until =
      absl::ToTimespec(std::max(deadline.since_beginning(), absl::ZeroDuration()));
  while (!TryTake(count)) {
    // FUTEX_WAIT_BITSET takes an absolute time, which is CLOCK_MONOTONIC's without
    // FUTEX_CLOCK_REALTIME. EINTR and EAGAIN go round the loop.
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

// Abseil declares this function as a weak symbol, to be replaced by programs. A thread calls it for
// itself.
extern "C" bool ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemWait)(
    absl::synchronization_internal::KernelTimeout timeout) {
  if (!bora::in_use.load(std::memory_order_relaxed)) bora::in_use = true;
  bora::SteadyTime deadline = bora::SteadyTime::InfiniteFuture();
  if (timeout.has_timeout()) {
    // Undoes the conversion of gRPC and Abseil from a span to a wall time. Reads the system clock
    // directly: absl::Now may follow a change of the clock some seconds late.
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    deadline = bora::SteadyNow() + (absl::DurationFromTimespec(timeout.MakeAbsTimespec()) -
                                    absl::DurationFromTimespec(now));
  }
  absl::base_internal::ThreadIdentity* identity =
      absl::synchronization_internal::GetOrCreateCurrentThreadIdentity();
  // Abseil's accounting of blocked threads, kept as in the original function.
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
