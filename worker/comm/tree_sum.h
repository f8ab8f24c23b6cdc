// The order in which the numbers of several ranks are summed: a balanced tree over the ranks. Every
// all-reduce on the host uses this function: all ways of moving the data give the same bits.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace bora {

// out[i] = T(s0[i], s1[i], ...) in fp32 for i in [0, n), with T(a) = a and
// T(a1 .. ak) = T(a1 .. am) + T(am+1 .. ak), m the largest power of two below k:
// ((s0 + s1) + (s2 + s3)) + s4 for five sources. Subnormal operands and results count as zero,
// unless there is only one source, which is copied. Thread-safe.
// sources: at least one pointer to n floats each, in ascending rank order.
// out: [n]; may be one of the sources.
void TreeSum(absl::Span<const float* const> sources, int64_t n, float* out);

}  // namespace bora
