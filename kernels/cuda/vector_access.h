// Neighbouring elements that one instruction loads or stores: 16 bytes where the width allows.
#pragma once

#include "base/bf16.h"

namespace bora {

// Assigned as a whole through a reinterpreted pointer, which must be aligned to its size.
template <int kWidth>
struct alignas(sizeof(float) * kWidth) Floats {
  float at[kWidth];
};

template <int kWidth>
struct alignas(sizeof(Bf16) * kWidth) Bf16s {
  Bf16 at[kWidth];
};

}  // namespace bora
