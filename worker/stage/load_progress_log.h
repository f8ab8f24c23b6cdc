// Logs the progress of loading weights: one line every few seconds, so that the log shows that a
// load of minutes moves, and when it will end.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "base/log.h"

namespace bora {

// Owned by the rank thread.
class LoadProgressLog {
 public:
  static constexpr absl::Duration kInterval = absl::Seconds(5);

  // The load begins at `now`. Both times here are since any fixed moment of a steady clock.
  explicit LoadProgressLog(absl::Duration now) : begin_(now), next_(now + kInterval) {}

  // Logs a line if kInterval has passed since the last one and the load is not complete. The rate
  // in it is the mean since the beginning of the load.
  void Update(absl::Duration now, int64_t done_bytes, int64_t total_bytes) {
    if (now < next_ || done_bytes >= total_bytes) return;
    next_ = now + kInterval;
    const double rate = static_cast<double>(done_bytes) / absl::ToDoubleSeconds(now - begin_);
    const double left_bytes = static_cast<double>(total_bytes - done_bytes);
    LogInfo("loading", {{"percent", 100.0 * static_cast<double>(done_bytes) /
                                        static_cast<double>(total_bytes)},
                        {"gib", static_cast<double>(done_bytes) / kGiB},
                        {"of_gib", static_cast<double>(total_bytes) / kGiB},
                        {"gb_per_s", rate / 1e9},
                        {"eta_s", left_bytes / std::max(rate, 1.0)}});
  }

 private:
  static constexpr double kGiB = double{1 << 30};

  const absl::Duration begin_;
  absl::Duration next_;  // earliest time of the next line
};

}  // namespace bora
