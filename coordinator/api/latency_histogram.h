// How often something took how long, in buckets that grow by a constant factor: counters that only
// grow, so that a reader takes the difference of two moments.
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
  // Bucket i has what took up to 0.1 ms * 2^(i/4): a percentile is known to 19 %. The last, from 88
  // s on, has the rest.
  static constexpr int kBuckets = 81;

  void Add(absl::Duration duration) {
    const double steps = 4 * std::log2(std::max(1.0, absl::ToDoubleMicroseconds(duration) / 100));
    // What rounding puts above its own bound goes into the next bucket.
    const int bucket = static_cast<int>(std::ceil(std::min<double>(steps, kBuckets - 1)));
    ++counts_[bucket];
    sum_ += duration;
  }
  const std::array<int64_t, kBuckets>& counts() const { return counts_; }
  absl::Duration sum() const { return sum_; }

 private:
  std::array<int64_t, kBuckets> counts_ = {};
  absl::Duration sum_;
};

}  // namespace bora
