// A condition variable for absl::Mutex whose timed waits follow the steady clock. Abseil's own
// timed waits (AwaitWithTimeout, CondVar, Notification) sleep until a time of the system clock: if
// that clock is set back by an hour, they sleep an hour longer.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// See the top of this file. Thread-safe.
class SteadyCondVar {
 public:
  // Wakes one waiting thread, or all. The caller need not hold the mutex.
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

  // Releases `mutex`, waits, and locks it again. Returns after a signal, after `deadline`, or
  // spuriously, so the caller checks its condition in a loop.
  void WaitUntil(absl::Mutex* mutex, SteadyTime deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Lockable lockable{mutex};
    const absl::Duration left = deadline - SteadyNow();
    if (left >= kLongest) {
      condition_.wait(lockable);
    } else {
      condition_.wait_until(lockable,
                            std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left));
    }
  }

 private:
  // Longer waits have no time limit: no process lives 50 years, and steady_clock::now() plus more
  // could overflow.
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365 * 50);

  // Makes absl::Mutex a BasicLockable, which condition_variable_any needs.
  struct Lockable {
    absl::Mutex* mutex;
    void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex->Lock(); }
    void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex->Unlock(); }
  };

  std::condition_variable_any condition_;
};

}  // namespace bora
