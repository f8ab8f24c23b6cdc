#include "base/bf16.h"
#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/silu_device.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/packed_weight.h"
#include "kernels/silu_mul.h"

namespace bora {
namespace {

constexpr int kThreads = 256;

// Elements of a thread. A group of rows is a multiple of them, so a thread's gates are contiguous.
constexpr int kWidth = 4;
static_assert(kGatedGroupRows % kWidth == 0);

// One group of kWidth elements per thread; blockIdx.x is the token.
__global__ void __launch_bounds__(kThreads)
    SiluMulKernel(int n_groups, const float* gate_up, Bf16* out) {
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= n_groups) return;
  const int64_t gate_col = GatedRow(int64_t{i} * kWidth);
  const float* row = gate_up + int64_t{2} * blockIdx.x * n_groups * kWidth;
  const auto gate = *reinterpret_cast<const Floats<kWidth>*>(row + gate_col);
  const auto up = *reinterpret_cast<const Floats<kWidth>*>(row + gate_col + kGatedGroupRows);
  Bf16s<kWidth> y;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) y.at[k] = ToBf16(SiluTimes(gate.at[k], up.at[k]));
  reinterpret_cast<Bf16s<kWidth>*>(out)[int64_t{blockIdx.x} * n_groups + i] = y;
}

}  // namespace

void SiluMul(CudaDevice& device, int64_t n_tokens, int64_t hidden_dim, const float* gate_up,
             Bf16* out) {
  CHECK_EQ(hidden_dim % kGatedGroupRows, 0);
  const int64_t n_groups = DivExact(hidden_dim, kWidth);
  LaunchKernel(
      device,
      {.n_blocks_x = n_tokens, .n_blocks_y = CeilDiv(n_groups, kThreads), .n_threads = kThreads},
      SiluMulKernel, n_groups, gate_up, out);
}

void LoadSiluMulKernels() { LoadKernels(SiluMulKernel); }

}  // namespace bora
