// Where arrays lie in a block's shared memory: one after the other, each from a multiple of its
// alignment on.
#pragma once

#include <cstdint>

#include "base/int_math.h"

namespace bora {

// One row of the 32 banks.
inline constexpr int64_t kSharedAlignment = 128;

// Adds up what a kernel's Shared takes, in the same order; for LaunchShape::shared_bytes.
class SharedBytes {
 public:
  template <typename T>
  constexpr SharedBytes& Add(int64_t n, int64_t alignment = kSharedAlignment) {
    bytes_ = RoundUp(bytes_, alignment) + n * static_cast<int64_t>(sizeof(T));
    return *this;
  }
  constexpr int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

}  // namespace bora
