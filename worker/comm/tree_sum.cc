#include "worker/comm/tree_sum.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/host/flush_subnormals.h"

namespace bora {
namespace {

// Floats that are summed over the whole tree before the next ones. The partial sums, one block of 4
// KiB for each of at most six levels (64 ranks), stay in the L1 cache.
constexpr int64_t kBlock = 1024;

// sum[0..n) <- the tree sum over sources[k][begin..begin + n), n <= kBlock. `sum` must not overlap
// the sources.
void SumBlock(absl::Span<const float* const> sources, int64_t begin, int64_t n, float* sum) {
  const float* const first = sources[0] + begin;
  if (sources.size() == 1) {
    memcpy(sum, first, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const float* const second = sources[1] + begin;
  if (sources.size() == 2) {
    for (int64_t i = 0; i < n; ++i) sum[i] = first[i] + second[i];
    return;
  }
  const size_t n_left = std::bit_floor(sources.size() - 1);
  float right[kBlock];
  SumBlock(sources.subspan(0, n_left), begin, n, sum);
  SumBlock(sources.subspan(n_left), begin, n, right);
  for (int64_t i = 0; i < n; ++i) sum[i] += right[i];
}

}  // namespace

void TreeSum(absl::Span<const float* const> sources, int64_t n, float* out) {
  CHECK(!sources.empty());
  if (sources.size() == 1) {
    if (out != sources[0]) memcpy(out, sources[0], static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const FlushSubnormals flush;
  // Summed aside, because `out` may be a source whose block is needed until the end of the sum.
  float sum[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t n_block = std::min(kBlock, n - begin);
    SumBlock(sources, begin, n_block, sum);
    memcpy(out + begin, sum, static_cast<size_t>(n_block) * sizeof(float));
  }
}

}  // namespace bora
