// Integer division that states its rounding: CeilDiv rounds up, DivExact requires that nothing is
// left over.
#pragma once

#include <cstdint>

#include "base/check.h"

namespace bora {

// ceil(a / b). REQUIRES: a >= 0, b > 0, and a + b - 1 fits in int64.
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a / b. REQUIRES: b divides a; otherwise the process aborts (CHECK).
inline int64_t DivExact(int64_t a, int64_t b) {
  CHECK(b != 0 && a % b == 0) << a << " is not a multiple of " << b;
  return a / b;
}

// The smallest multiple of b that is >= a. REQUIRES: as for CeilDiv.
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

}  // namespace bora
