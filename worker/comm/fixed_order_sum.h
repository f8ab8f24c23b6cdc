// out[i] = ((s0[i] + s1[i]) + s2[i]) + ... in fp32: the one order of sums, by every path.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace bora {

// sources: at least one pointer to n floats, in ascending rank order; `out` may be one of them.
void FixedOrderSum(absl::Span<const float* const> sources, int64_t n, float* out);

}  // namespace bora
