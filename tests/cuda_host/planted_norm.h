// A kernel with a choice of mistakes, for the test that each is found: a block sums a row's squares
// as AddRmsNorm does.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime/cuda_device.h"

namespace bora::cuda_host {

enum class NormBug {
  kNone,
  kSharedArrayOneTooShort,
  kRowOneTooLong,
  kNoBarrier,
  kLaneSkipsShuffle,
  kWarpSkipsBarrier,
  kAsksForTooFewBytes,
};

// in, out: [n_tokens, dim]; out = in divided by the root of the sum of its row's squares.
void PlantedNorm(CudaDevice& device, NormBug bug, int64_t n_tokens, int64_t dim, const float* in,
                 float* out);

}  // namespace bora::cuda_host
