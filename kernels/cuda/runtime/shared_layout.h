// The layout of a block's shared memory: arrays one after another, each from a multiple of its
// alignment on.
#pragma once

#include <cstdint>

#include "base/int_math.h"

namespace bora {

// Default alignment of an array in bytes: one row of the 32 banks of 4 bytes.
inline constexpr int64_t kSharedAlignment = 128;

// Computes the size of a kernel's shared memory on the host, for LaunchShape::shared_bytes.
// REQUIRES: the same arrays in the same order as the kernel's calls of Shared::Take.
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
