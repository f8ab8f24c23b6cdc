#include <algorithm>

#include "base/bf16.h"
#include "base/int_math.h"
#include "kernels/add_rms_norm.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/vector_access.h"

namespace bora {
namespace {

// Most threads of a block.
constexpr int kMaxThreads = 512;

// The sum over a warp, with the same bits in every lane: each step adds the same two numbers in
// both partners.
__device__ float WarpSum(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kFullMask, value, distance);
  }
  return value;
}

// Groups of elements that a thread keeps in registers between the two passes. With groups of four
// these are all of its groups up to 4,096 elements per token.
constexpr int kKept = 2;

// AddRmsNorm for one token per block. A thread owns every blockDim.x-th group of kWidth elements in
// both passes. For groups beyond kKept the second pass reads memory that the thread itself wrote.
template <int kWidth>
__global__ void __launch_bounds__(kMaxThreads)
    AddRmsNormKernel(int n_groups, float eps, float* residual, const float* delta,
                     const float* gain, Bf16* out) {
  Shared shared;
  float* warp_sums = shared.Take<float>(kWarpSize);
  const int lane = threadIdx.x % kWarpSize;
  const int warp_idx = threadIdx.x / kWarpSize;
  const int n_warps = blockDim.x / kWarpSize;
  const int64_t row = int64_t{blockIdx.x} * n_groups;
  auto* residuals = reinterpret_cast<Floats<kWidth>*>(residual) + row;
  const auto* deltas = reinterpret_cast<const Floats<kWidth>*>(delta) + row;
  const auto* gains = reinterpret_cast<const Floats<kWidth>*>(gain);
  auto* outs = reinterpret_cast<Bf16s<kWidth>*>(out) + row;

  // Adds d to x and stores the sum, if there is a delta; then adds x's squares to the thread's sum.
  float sum = 0;
  const auto add = [&](int i, const Floats<kWidth>& d, Floats<kWidth>& x) {
    if (delta != nullptr) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) x.at[k] += d.at[k];
      residuals[i] = x;
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum = fmaf(x.at[k], x.at[k], sum);
  };
  // All loads come before the first store: the compiler must assume that a store changes the memory
  // of later loads, so it would not move them.
  Floats<kWidth> kept[kKept], other[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i >= n_groups) continue;
    kept[j] = residuals[i];
    if (delta != nullptr) other[j] = deltas[i];
  }
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i < n_groups) add(i, other[j], kept[j]);
  }
  const int rest = threadIdx.x + kKept * blockDim.x;
  for (int i = rest; i < n_groups; i += blockDim.x) {
    Floats<kWidth> x = residuals[i];
    add(i, delta != nullptr ? deltas[i] : x, x);
  }
  // The gains do not depend on the sum, so they are loaded before the barrier and not waited for
  // after it.
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i < n_groups) other[j] = gains[i];
  }
  sum = WarpSum(sum);
  if (lane == 0) warp_sums[warp_idx] = sum;
  __syncthreads();
  sum = WarpSum(lane < n_warps ? warp_sums[lane] : 0.0f);
  const float mean = sum / static_cast<float>(n_groups * kWidth);
  const float scale = 1.0f / sqrtf(mean + eps);
  const auto store = [&](int i, const Floats<kWidth>& x, const Floats<kWidth>& g) {
    Bf16s<kWidth> y;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) y.at[k] = ToBf16(x.at[k] * scale * g.at[k]);
    outs[i] = y;
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i < n_groups) store(i, kept[j], other[j]);
  }
  for (int i = rest; i < n_groups; i += blockDim.x) store(i, residuals[i], gains[i]);
}

constexpr int kAddThreads = 256;

// One group of kWidth elements per thread.
template <int kWidth>
__global__ void __launch_bounds__(kAddThreads)
    AddKernel(int64_t n_groups, const float* delta, float* residual) {
  const int64_t i = int64_t{blockIdx.x} * kAddThreads + threadIdx.x;
  if (i >= n_groups) return;
  auto* residuals = reinterpret_cast<Floats<kWidth>*>(residual);
  Floats<kWidth> x = residuals[i];
  const Floats<kWidth> d = reinterpret_cast<const Floats<kWidth>*>(delta)[i];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) x.at[k] += d.at[k];
  residuals[i] = x;
}

}  // namespace

void AddRmsNorm(CudaDevice& device, const AddRmsNormShape& shape, float* residual,
                const float* delta, const float* gain, Bf16* out) {
  const bool vectors = shape.dim % 4 == 0;
  const int64_t n_groups = vectors ? shape.dim / 4 : shape.dim;
  const LaunchShape launch = {
      .n_blocks_x = shape.n_tokens,
      .n_threads = std::min<int64_t>(kMaxThreads, RoundUp(n_groups, kWarpSize)),
      .shared_bytes = SharedBytes().Add<float>(kWarpSize).bytes()};
  LaunchKernel(device, launch, vectors ? AddRmsNormKernel<4> : AddRmsNormKernel<1>, n_groups,
               shape.eps, residual, delta, gain, out);
}

void Add(CudaDevice& device, int64_t n, const float* delta, float* residual) {
  const bool vectors = n % 4 == 0;
  const int64_t n_groups = vectors ? n / 4 : n;
  LaunchKernel(device, {.n_blocks_x = CeilDiv(n_groups, kAddThreads), .n_threads = kAddThreads},
               vectors ? AddKernel<4> : AddKernel<1>, n_groups, delta, residual);
}

void LoadAddRmsNormKernels() {
  LoadKernels(AddRmsNormKernel<1>, AddRmsNormKernel<4>, AddKernel<1>, AddKernel<4>);
}

}  // namespace bora
