// The only way for a kernel to get shared memory. tests/cuda_host/shared_memory.h is the
// counterpart for the CPU, where every array is a heap block of exactly its size.
#pragma once

#include "kernels/cuda/runtime/shared_layout.h"

namespace bora {

// Divides a block's shared memory into arrays. Every thread of the block takes the same arrays in
// the same order, and the launch asks for as many bytes as SharedBytes computes. Contents are
// undefined. An array must not hold several things one after another: an overflow from one into the
// next would not be detected.
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
