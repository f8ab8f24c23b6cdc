// A histogram of durations whose bucket bounds grow by a constant factor. The counters only grow: a
// reader that wants a period's durations subtracts the counters at its start from those at its end.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "absl/time/time.h"

namespace bora {

// Owned by one thread.
class LatencyHistogram {
 public:
  // Bucket i counts durations above the bound of bucket i - 1 and up to 0.1 ms * 2^(i/4). Two
  // bounds differ by 2^(1/4), so a percentile is known to 19 %. The last bucket has all durations
  // above 88 s.
  static constexpr int kBuckets = 81;

  // Counts one duration; a negative one counts in bucket 0.
  void Add(absl::Duration duration) {
    const double steps = 4 * std::log2(std::max(1.0, absl::ToDoubleMicroseconds(duration) / 100));
    // If rounding lifts a duration above its bucket's bound, the next bucket counts it.
    const int bucket = static_cast<int>(std::ceil(std::min<double>(steps, kBuckets - 1)));
    ++counts_[bucket];
    sum_ += duration;
  }
  // How many durations each bucket has, since construction.
  const std::array<int64_t, kBuckets>& counts() const { return counts_; }
  // Sum of all durations, for a mean.
  absl::Duration sum() const { return sum_; }

 private:
  std::array<int64_t, kBuckets> counts_ = {};
  absl::Duration sum_;
};

}  // namespace bora
