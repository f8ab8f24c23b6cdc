// Kernels that the tests of the CPU form itself run.
#pragma once

#include <cstdint>

#include "kernels/cuda_device.h"

namespace bora::cuda_host {

// out: [4, 32]: what each lane gets of in, [32], by index, from below, from above and by xor.
void RunShuffles(CudaDevice& device, int operand, int width, const float* in, float* out);

// out: [n_threads]: each warp's vote on threadIdx.x % 3 == 0.
void RunBallot(CudaDevice& device, int n_threads, unsigned* out);

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

}  // namespace bora::cuda_host
