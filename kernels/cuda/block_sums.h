// Sums over the values that the threads of a block hold, and a search for the place where a running
// sum exceeds a number. All threads of a warp (WarpReduce, FindInWarp) or of the block (the others)
// must call these; every thread gets the same result.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_prelude.h"

namespace bora {

// A thread's place in its block, and the shared memory through which the block's warps exchange
// sums.
struct BlockThreads {
  int thread_idx = 0;
  int lane = 0;
  int warp_idx = 0;
  int n_threads = 0;
  int n_warps = 0;            // at least 2
  uint64_t* slots = nullptr;  // [kWarpSize], in shared memory
};

// The calling thread's place in a one-dimensional block.
__device__ inline BlockThreads ThisBlock(uint64_t* slots) {
  const int thread_idx = threadIdx.x;
  const int n_threads = blockDim.x;
  return {thread_idx, thread_idx % kWarpSize, thread_idx / kWarpSize,
          n_threads,  n_threads / kWarpSize,  slots};
}

// Combines the values of a warp. With a commutative `combine` every lane gets the same bits: each
// step combines the same two values in both partners.
template <typename T, typename Combine>
__device__ T WarpReduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kFullMask, value, distance));
  }
  return value;
}

// Combines all threads' values in a fixed tree. T has 64 bits. neutral: the value that changes
// nothing.
template <typename T, typename Combine>
__device__ T BlockReduce(const BlockThreads& block, T value, T neutral, Combine combine) {
  value = WarpReduce(value, combine);
  if (block.lane == 0) block.slots[block.warp_idx] = std::bit_cast<uint64_t>(value);
  __syncthreads();
  value = block.lane < block.n_warps ? std::bit_cast<T>(block.slots[block.lane]) : neutral;
  value = WarpReduce(value, combine);
  __syncthreads();  // before the slots are written again
  return value;
}

template <typename T>
__device__ T BlockSum(const BlockThreads& block, T value) {
  return BlockReduce(block, value, T{0}, [](T a, T b) { return a + b; });
}

// The result of a search in an array of values.
struct Found {
  int idx = 0;          // of the value that was found
  uint64_t before = 0;  // sum of the values before it
  uint64_t value = 0;   // the value itself
};

// Finds the first lane at which the running sum of the warp's values exceeds target.
// REQUIRES: there is one.
__device__ inline Found FindInWarp(uint64_t value, uint64_t target) {
  const int lane = threadIdx.x % kWarpSize;
  uint64_t sum = value;
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const uint64_t below = __shfl_up_sync(kFullMask, sum, distance);
    if (lane >= distance) sum += below;
  }
  const int first = __ffs(__ballot_sync(kFullMask, sum > target)) - 1;
  return {first, __shfl_sync(kFullMask, sum - value, first), __shfl_sync(kFullMask, value, first)};
}

// Finds the first idx in [0, n) at which the running sum of value_of(idx) exceeds target. Each
// round narrows the range to one warp's part of it.
// REQUIRES: there is one; value_of gives every thread the same values.
template <typename ValueOf>
__device__ Found FindInBlock(const BlockThreads& block, int n, uint64_t target, ValueOf value_of) {
  int begin = 0;
  int end = n;
  uint64_t before = 0;  // sum of the values before begin
  while (end - begin > kWarpSize) {
    // There are at least 2 warps, so a part is shorter than the range and the loop ends.
    const int part = static_cast<int>(RoundUp(CeilDiv(end - begin, block.n_warps), kWarpSize));
    const int part_begin = begin + block.warp_idx * part;
    const int part_end = std::min(part_begin + part, end);
    uint64_t sum = 0;
#pragma unroll 4
    for (int i = part_begin + block.lane; i < part_end; i += kWarpSize) sum += value_of(i);
    sum = WarpReduce(sum, [](uint64_t a, uint64_t b) { return a + b; });
    if (block.lane == 0) block.slots[block.warp_idx] = sum;
    __syncthreads();
    sum = block.lane < block.n_warps ? block.slots[block.lane] : 0;
    const Found found = FindInWarp(sum, target - before);
    __syncthreads();
    before += found.before;
    begin += found.idx * part;
    end = std::min(begin + part, end);
  }
  const int mine = begin + block.lane;
  const Found found = FindInWarp(mine < end ? value_of(mine) : 0, target - before);
  return {begin + found.idx, before + found.before, found.value};
}

}  // namespace bora
