// How long a client should wait before it retries, if the queue is full.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// Estimates the time until the queue has room for one more sequence: the scheduler's prediction if
// there is one, else a moving average of the time between the ends of two requests. Thread-safe in
// this sense: the engine thread calls RequestEnded and Predict, any thread calls ForVacancies.
class RetryDelay {
 public:
  explicit RetryDelay(SteadyTime now) : last_end_(now) {}

  // Estimated time until the queue has room for n more sequences; at most kMax.
  absl::Duration ForVacancies(int32_t n) const {
    return std::min(kMax, n * absl::Microseconds(us_.load(std::memory_order_relaxed)));
  }
  // A request has ended. The new interval counts one eighth in the moving average.
  void RequestEnded(SteadyTime now) {
    const int64_t interval_us = absl::ToInt64Microseconds(std::clamp(now - last_end_, kMin, kMax));
    last_end_ = now;
    us_.store((us_.load(std::memory_order_relaxed) * 7 + interval_us) / 8,
              std::memory_order_relaxed);
  }
  // Replaces the estimate by a prediction for one sequence; zero means that there is none, and
  // changes nothing.
  void Predict(absl::Duration delay) {
    if (delay <= absl::ZeroDuration()) return;
    us_.store(absl::ToInt64Microseconds(std::clamp(delay, kMin, kMax)), std::memory_order_relaxed);
  }

 private:
  static constexpr absl::Duration kMin = absl::Milliseconds(50);
  static constexpr absl::Duration kMax = absl::Seconds(10);

  std::atomic<int64_t> us_{1'000'000};  // the estimate for one sequence, microseconds
  SteadyTime last_end_;                 // when the last request ended
};

}  // namespace bora
