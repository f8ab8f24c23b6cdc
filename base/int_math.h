// Integer division that says what it means: CeilDiv rounds up, DivExact must have no remainder.
#pragma once

#include <cstdint>

#include "base/check.h"

namespace bora {

// ceil(a / b) for a >= 0, b > 0.
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a / b where b divides a; anything else is a programmer error.
inline int64_t DivExact(int64_t a, int64_t b) {
  CHECK(b != 0 && a % b == 0) << a << " is not a multiple of " << b;
  return a / b;
}

// Smallest multiple of b that is >= a, for a >= 0, b > 0.
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

}  // namespace bora
