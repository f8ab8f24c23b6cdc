#include <bit>
#include <utility>

#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/sum_parts.h"
#include "kernels/cuda/vector_access.h"

namespace bora {
namespace {

constexpr int kThreads = 256;

// The sum of one element over parts [kBegin, kEnd) of x, by the tree of worker/comm/tree_sum.h.
template <int kBegin, int kEnd, typename Group>
__device__ __forceinline__ float TreeOf(const Group* x, int element) {
  if constexpr (kEnd - kBegin == 1) {
    return x[kBegin].at[element];
  } else {
    constexpr int kMiddle = kBegin + static_cast<int>(std::bit_floor(unsigned{kEnd - kBegin - 1}));
    return TreeOf<kBegin, kMiddle>(x, element) + TreeOf<kMiddle, kEnd>(x, element);
  }
}

template <int kParts, int kWidth>
__global__ void __launch_bounds__(kThreads)
    SumPartsKernel(int64_t n_groups, const float* parts, float* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n_groups) return;
  const auto* groups = reinterpret_cast<const Floats<kWidth>*>(parts);
  Floats<kWidth> x[kParts];
#pragma unroll
  for (int part = 0; part < kParts; ++part) x[part] = groups[part * n_groups + i];
  Floats<kWidth> sum;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) sum.at[k] = TreeOf<0, kParts>(x, k);
  reinterpret_cast<Floats<kWidth>*>(out)[i] = sum;
}

// Launches the kernel for n_parts >= kParts parts; calls itself until kParts is n_parts.
template <int kParts>
void LaunchSum(CudaDevice& device, int n_parts, int64_t n, const float* parts, float* out) {
  if constexpr (kParts < kMaxSumParts) {
    if (n_parts > kParts) return LaunchSum<kParts + 1>(device, n_parts, n, parts, out);
  }
  const bool vectors = n % 4 == 0;
  const int64_t n_groups = vectors ? n / 4 : n;
  LaunchKernel(device, {.n_blocks_x = CeilDiv(n_groups, kThreads), .n_threads = kThreads},
               vectors ? SumPartsKernel<kParts, 4> : SumPartsKernel<kParts, 1>, n_groups, parts,
               out);
}

// Loads the kernels for kIdx + 1 parts, of both widths.
template <int... kIdx>
void LoadAll(std::integer_sequence<int, kIdx...>) {
  LoadKernels(SumPartsKernel<kIdx + 1, 1>..., SumPartsKernel<kIdx + 1, 4>...);
}

}  // namespace

void SumParts(CudaDevice& device, int n_parts, int64_t n, const float* parts, float* out) {
  CHECK(n_parts >= 1 && n_parts <= kMaxSumParts) << n_parts << " parts";
  LaunchSum<1>(device, n_parts, n, parts, out);
}

void LoadSumPartsKernels() { LoadAll(std::make_integer_sequence<int, kMaxSumParts>()); }

}  // namespace bora
