// Groups of neighbouring elements that one instruction loads or stores: 16 bytes if the group has
// as many.
#pragma once

#include "base/bf16.h"

namespace bora {

// kWidth floats. Loaded and stored as a whole through a reinterpreted pointer, which must be
// aligned to the group's size.
template <int kWidth>
struct alignas(sizeof(float) * kWidth) Floats {
  float at[kWidth];
};

template <int kWidth>
struct alignas(sizeof(Bf16) * kWidth) Bf16s {
  Bf16 at[kWidth];
};

}  // namespace bora
