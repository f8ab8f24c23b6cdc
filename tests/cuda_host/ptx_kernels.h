// Kernels that the tests of the instructions of kernels/cuda/runtime/ptx.h run, one warp each.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"

namespace bora::cuda_host {

// elements: [32, 8], four 8x8 matrices; out: [32 lanes, 4 matrices], what ldmatrix gives.
void RunLoadMatrices(CudaDevice& device, bool transposed, const uint16_t* elements, uint32_t* out);

// mma on the registers of each lane; a: [32, 4], b: [32, 2], c: [32, 4], updated.
void RunMultiply(CudaDevice& device, const uint32_t* a, const uint32_t* b, float* c);

// d = A B: a: [16, 16], b_transposed: [8, 16], d: [16, 8]; through cp.async, ldmatrix and mma.
void RunTile(CudaDevice& device, const Bf16* a, const Bf16* b_transposed, float* d);

// ldmatrix of 8 rows 128 bytes apart, with and without an exclusive or of the row into the column.
void RunStridedLoads(CudaDevice& device, bool swizzled);

enum class CopyBug {
  kNone,
  kWaitTooWeak,
  kNoBarrierAfterWait,
  kNoBarrierBeforeRefill,
  kReadsOneTooFar,
  kWritesOneTooFar,
};
// in: [n_tiles, 128]; out: [n_tiles, 128], each tile's groups of 4 moved down by one. Two stages
// are filled asynchronously. Of the last tile only 126 elements exist; the rest counts as 0.
void RunPipeline(CudaDevice& device, CopyBug bug, int n_tiles, const float* in, float* out);

}  // namespace bora::cuda_host
