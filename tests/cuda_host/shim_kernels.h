// Kernels that the tests of the CPU form itself run.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime/cuda_device.h"

namespace bora::cuda_host {

// out: [4, 32]: what each lane gets of in, [32], by index, from below, from above and by xor.
void RunShuffles(CudaDevice& device, int operand, int width, const float* in, float* out);

// out: [n_threads]: each warp's vote on threadIdx.x % 3 == 0.
void RunBallot(CudaDevice& device, int n_threads, unsigned* out);

// out: [3, 32]: lane + 2^40 * (lane + 1) of the lane above, of the lane with the other parity, and
// the upper half of its product with 2^63 + lane.
void RunWideWords(CudaDevice& device, uint64_t* out);

// out: [n_blocks, n_threads]: each thread's index in its block after it was handed on n_rounds
// times to the next thread, the last one's to the first, through shared memory.
void RunRing(CudaDevice& device, int n_blocks, int n_threads, int n_rounds, int* out);

// What CUDA leaves undefined, for the message that each ends with; kNone is a correct program.
enum class Misuse {
  kNone,
  kNotInOwnMask,
  kReadsOutsideMask,
  kDifferentOperations,
  kDifferentBarriers,
  kBarrierAfterExit,
  kExitBeforeBarrier,
  kTakesDifferently,
  kNoWarpBarrier,
  kNoWarpBarrierBeforeRewrite,
  kBlocksWriteTheSame,
};
// in, out: [n_blocks * 64].
void RunMisuse(CudaDevice& device, Misuse misuse, int n_blocks, const int* in, int* out);

// Counts in[i] % kCountBins over n_blocks * 64 values in shared memory and adds up the blocks'
// counts in out, [kCountBins], in global memory, both with atomicAdd. What each bug leaves out or
// does instead is undefined.
inline constexpr int kCountBins = 5;
enum class CountBug {
  kNone,
  kDoesNotClear,
  kNoBarrierAfterClearing,
  kNoBarrierBeforeReading,
  kOneThreadAddsWithoutAtomic,
  kOneBinTooFar,
  kBlocksAddWithoutAtomic,
};
void RunCount(CudaDevice& device, CountBug bug, int n_blocks, const int* in, uint32_t* out);

}  // namespace bora::cuda_host
