// The one order in which ranks' numbers are summed, by every path: a balanced tree over the ranks.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace bora {

// out[i] = T(s0[i], s1[i], ...) in fp32 with T(a) = a and T(a1 .. an) = T(a1 .. am) + T(am+1 ..
// an), m the largest power of two below n: ((s0 + s1) + (s2 + s3)) + s4 for five. Subnormal
// operands and results count as zero. sources: at least one pointer to n floats, in ascending rank
// order; `out` may be one of them.
void TreeSum(absl::Span<const float* const> sources, int64_t n, float* out);

}  // namespace bora
