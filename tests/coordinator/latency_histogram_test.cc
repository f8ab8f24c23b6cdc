#include "coordinator/api/latency_histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace bora {
namespace {

int BucketOf(absl::Duration duration) {
  LatencyHistogram histogram;
  histogram.Add(duration);
  for (int i = 0; i < LatencyHistogram::kBuckets; ++i) {
    if (histogram.counts()[i] == 1) return i;
  }
  return -1;
}

TEST(LatencyHistogramTest, BucketsGrowByAFourthOfADoubling) {
  EXPECT_EQ(BucketOf(absl::ZeroDuration()), 0);
  EXPECT_EQ(BucketOf(-absl::Seconds(1)), 0);
  EXPECT_EQ(BucketOf(absl::Microseconds(100)), 0);
  EXPECT_EQ(BucketOf(absl::Microseconds(101)), 1);
  EXPECT_EQ(BucketOf(absl::Microseconds(200)), 4);
  EXPECT_EQ(BucketOf(absl::Milliseconds(100)), 40);
  EXPECT_EQ(BucketOf(absl::Hours(1000)), LatencyHistogram::kBuckets - 1);
  EXPECT_EQ(BucketOf(absl::InfiniteDuration()), LatencyHistogram::kBuckets - 1);
  for (double us = 1; us < 1e9; us *= 1.07) {
    const int bucket = BucketOf(absl::Microseconds(us));
    const double bound = 100 * std::exp2(bucket / 4.0);
    if (bucket < LatencyHistogram::kBuckets - 1) {
      EXPECT_LE(us, bound * (1 + 1e-9));
    }
    if (bucket > 0) {
      EXPECT_GT(us, bound / std::exp2(0.25) * (1 - 1e-9));
    }
  }
}

TEST(LatencyHistogramTest, AddsUp) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 1000; ++i) histogram.Add(absl::Milliseconds(i));
  EXPECT_EQ(std::accumulate(histogram.counts().begin(), histogram.counts().end(), int64_t{0}),
            1000);
  EXPECT_EQ(histogram.sum(), absl::Milliseconds(500500));
}

}  // namespace
}  // namespace bora
