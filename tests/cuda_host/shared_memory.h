// Shared memory on the CPU: the contract is that of kernels/cuda/runtime/shared_memory.h. Each
// array is a heap block of its own, so that AddressSanitizer sees its end.
#pragma once

#include "base/int_math.h"
#include "kernels/cuda/runtime/shared_layout.h"
#include "tests/cuda_host/block.h"

namespace bora {

class Shared {
 public:
  template <typename T>
  T* Take(int n, int alignment = kSharedAlignment, const char* file = __builtin_FILE(),
          int line = __builtin_LINE()) {
    const int64_t n_bytes = n * static_cast<int64_t>(sizeof(T));
    const int64_t offset = RoundUp(offset_, alignment);
    offset_ = offset + n_bytes;
    return static_cast<T*>(
        cuda_host::SharedArray(n_taken_++, offset, n_bytes, alignment, {file, line}));
  }

 private:
  int64_t offset_ = 0;
  int n_taken_ = 0;
};

}  // namespace bora
