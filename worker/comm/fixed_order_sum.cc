#include "worker/comm/fixed_order_sum.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace bora {
namespace {

// The running sum of a block stays in the L1 cache.
constexpr int64_t kBlock = 1024;

}  // namespace

void FixedOrderSum(absl::Span<const float* const> sources, int64_t n, float* out) {
  CHECK(!sources.empty());
  if (sources.size() == 1) {
    if (out != sources[0]) memcpy(out, sources[0], static_cast<size_t>(n) * sizeof(float));
    return;
  }
  float sum[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t n_block = std::min(kBlock, n - begin);
    const float* first = sources[0] + begin;
    const float* second = sources[1] + begin;
    for (int64_t i = 0; i < n_block; ++i) sum[i] = first[i] + second[i];
    for (size_t k = 2; k < sources.size(); ++k) {
      const float* next = sources[k] + begin;
      for (int64_t i = 0; i < n_block; ++i) sum[i] += next[i];
    }
    memcpy(out + begin, sum, static_cast<size_t>(n_block) * sizeof(float));
  }
}

}  // namespace bora
