// The words of CUDA that kernels use, for the CPU: a stated exception to the rules on macros and
// names. __shared__ is left out on purpose, so that a kernel with static shared memory, which no
// sanitizer guards, does not compile.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (::bora::cuda_host::built_ins.thread_idx)
#define blockIdx (::bora::cuda_host::built_ins.block_idx)
#define blockDim (::bora::cuda_host::built_ins.block_dim)
#define gridDim (::bora::cuda_host::built_ins.grid_dim)

namespace bora::cuda_host {

enum class ShuffleKind { kIndex, kUp, kDown, kXor };
uint64_t Shuffle(ShuffleKind kind, unsigned mask, uint64_t value, int operand, int width,
                 Place place);
unsigned Ballot(unsigned mask, bool predicate, Place place);
void WarpBarrier(unsigned mask, Place place);
uint32_t AtomicAdd(uint32_t* address, uint32_t value, Place place);

template <typename T>
T ShuffleAs(ShuffleKind kind, unsigned mask, T value, int operand, int width, Place place) {
  static_assert(sizeof(T) == sizeof(uint32_t) || sizeof(T) == sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  bits = Shuffle(kind, mask, bits, operand, width, place);
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace bora::cuda_host

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  bora::cuda_host::BlockBarrier({file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  bora::cuda_host::WarpBarrier(mask, {file, line});
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  return bora::cuda_host::ShuffleAs(bora::cuda_host::ShuffleKind::kIndex, mask, value, lane, width,
                                    {file, line});
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int distance, int width = 32,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return bora::cuda_host::ShuffleAs(bora::cuda_host::ShuffleKind::kUp, mask, value, distance, width,
                                    {file, line});
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, int distance, int width = 32,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return bora::cuda_host::ShuffleAs(bora::cuda_host::ShuffleKind::kDown, mask, value, distance,
                                    width, {file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return bora::cuda_host::ShuffleAs(bora::cuda_host::ShuffleKind::kXor, mask, value, lane_mask,
                                    width, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return bora::cuda_host::Ballot(mask, predicate != 0, {file, line});
}

inline uint32_t atomicAdd(uint32_t* address, uint32_t value, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  return bora::cuda_host::AtomicAdd(address, value, {file, line});
}

// 1 + the index of the lowest bit that is set, 0 without any.
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

// The upper half of the product.
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
