#include "kernels/cuda/runtime/cuda_prelude.h"
#include "tests/cuda_host/planted_norm.h"

namespace bora::cuda_host {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

__global__ void __launch_bounds__(kThreads)
    NormKernel(NormBug bug, int dim, const float* in, float* out) {
  Shared shared;
  float* warp_sums = shared.Take<float>(bug == NormBug::kSharedArrayOneTooShort ? 3 : kWarps);
  const int lane = threadIdx.x % kWarpSize;
  const int warp_idx = threadIdx.x / kWarpSize;
  const int n = bug == NormBug::kRowOneTooLong ? dim + 1 : dim;
  const float* row = in + int64_t{blockIdx.x} * dim;
  float* to = out + int64_t{blockIdx.x} * dim;

  float sum = 0;
  for (int i = threadIdx.x; i < n; i += kThreads) sum += row[i] * row[i];
  for (int distance = 16; distance > 0; distance /= 2) {
    if (bug == NormBug::kLaneSkipsShuffle && threadIdx.x == 5) break;
    sum += __shfl_xor_sync(kFullMask, sum, distance);
  }
  if (lane == 0) warp_sums[warp_idx] = sum;
  const bool skips =
      bug == NormBug::kNoBarrier || (bug == NormBug::kWarpSkipsBarrier && warp_idx == 1);
  if (!skips) __syncthreads();
  sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += warp_sums[i];
  for (int i = threadIdx.x; i < n; i += kThreads) to[i] = row[i] / sqrtf(sum);
}

}  // namespace

void PlantedNorm(CudaDevice& device, NormBug bug, int64_t n_tokens, int64_t dim, const float* in,
                 float* out) {
  const int64_t bytes = SharedBytes().Add<float>(kWarps).bytes();
  LaunchKernel(device,
               {.n_blocks_x = n_tokens,
                .n_threads = kThreads,
                .shared_bytes = bug == NormBug::kAsksForTooFewBytes ? bytes - 4 : bytes},
               NormKernel, bug, dim, in, out);
}

}  // namespace bora::cuda_host
