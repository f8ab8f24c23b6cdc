// For lines that strangers can cause: one in a while, with the number of those left out.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// Thread-safe.
class LogRate {
 public:
  // At most one line in `interval`.
  explicit LogRate(absl::Duration interval) : interval_(interval) {}

  // Nothing: no line now. Otherwise how many were left out since the last one.
  std::optional<int64_t> Take(SteadyTime now = SteadyNow()) {
    absl::MutexLock lock(&mutex_);
    if (last_.has_value() && now - *last_ < interval_) {
      ++n_left_out_;
      return std::nullopt;
    }
    last_ = now;
    return std::exchange(n_left_out_, 0);
  }

 private:
  const absl::Duration interval_;
  absl::Mutex mutex_;
  std::optional<SteadyTime> last_ ABSL_GUARDED_BY(mutex_);
  int64_t n_left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace bora
