// The only way to shared memory. tests/cuda_host/shared_memory.h has the form for the CPU, where
// every array is a heap block of exactly its size.
#pragma once

#include "kernels/cuda/runtime/shared_layout.h"

namespace bora {

// Carves a block's shared memory into arrays. Every thread of the block takes the same arrays in
// the same order; the launch asks for as much as SharedBytes says. Contents are undefined. No array
// holds several things: what lies behind one another in one array is not checked for overflow.
class Shared {
 public:
  template <typename T>
  __device__ T* Take(int n, int alignment = kSharedAlignment) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    offset_ = (offset_ + alignment - 1) / alignment * alignment;
    T* array = reinterpret_cast<T*>(shared_memory + offset_);
    offset_ += n * static_cast<int>(sizeof(T));
    return array;
  }

 private:
  int offset_ = 0;
};

}  // namespace bora
