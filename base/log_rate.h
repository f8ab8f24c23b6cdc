// Limits log lines that a peer can cause at will, for example by connecting and failing: at most
// one line per interval, with the number of lines left out.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// One limit, usually one per call site. Thread-safe.
class LogRate {
 public:
  // At most one line is allowed per `interval`, > 0.
  explicit LogRate(absl::Duration interval) : interval_(interval) {}

  // Call once for each line. nullopt: do not log it. Otherwise log it; the value is the number of
  // lines left out since the last allowed one.
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
  int64_t n_left_out_ ABSL_GUARDED_BY(mutex_) = 0;  // since last_
};

}  // namespace bora
