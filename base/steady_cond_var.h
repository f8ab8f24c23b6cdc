// A condition variable for absl::Mutex whose timed waits end by the steady clock. Abseil's own
// (AwaitWithTimeout, CondVar, Notification) sleep until a moment of the system clock: when that is
// set back by an hour they sleep an hour longer.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// Thread-safe.
class SteadyCondVar {
 public:
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

  // Returns when signalled, when `deadline` has passed, or for no reason; `mutex` is released
  // meanwhile. The caller looks at its condition in a loop.
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
  // Longer than a process lives, and no overflow.
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365 * 50);

  struct Lockable {
    absl::Mutex* mutex;
    void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex->Lock(); }
    void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex->Unlock(); }
  };

  std::condition_variable_any condition_;
};

}  // namespace bora
