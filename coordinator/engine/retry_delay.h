// What a client is told to wait when the queue is full.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// About how long until the queue has room for one more sequence: by the cost model's prediction
// where there is one, else by a moving average of the time between two ends of requests. The engine
// thread writes, any thread reads.
class RetryDelay {
 public:
  explicit RetryDelay(SteadyTime now) : last_end_(now) {}

  // Until the queue has room for n more sequences.
  absl::Duration ForVacancies(int32_t n) const {
    return std::min(kMax, n * absl::Microseconds(us_.load(std::memory_order_relaxed)));
  }
  // A request has ended.
  void RequestEnded(SteadyTime now) {
    const int64_t interval_us = absl::ToInt64Microseconds(std::clamp(now - last_end_, kMin, kMax));
    last_end_ = now;
    us_.store((us_.load(std::memory_order_relaxed) * 7 + interval_us) / 8,
              std::memory_order_relaxed);
  }
  // The prediction; zero if there is none.
  void Predict(absl::Duration delay) {
    if (delay <= absl::ZeroDuration()) return;
    us_.store(absl::ToInt64Microseconds(std::clamp(delay, kMin, kMax)), std::memory_order_relaxed);
  }

 private:
  static constexpr absl::Duration kMin = absl::Milliseconds(50);
  static constexpr absl::Duration kMax = absl::Seconds(10);

  std::atomic<int64_t> us_{1'000'000};
  SteadyTime last_end_;
};

}  // namespace bora
