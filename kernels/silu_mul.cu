#include "base/int_math.h"
#include "kernels/cuda_device.h"
#include "kernels/cuda_prelude.h"
#include "kernels/silu_mul.h"
#include "kernels/vector_access.h"

namespace bora {
namespace {

constexpr int kThreads = 256;

// A group of kWidth elements a thread; blockIdx.x is the token.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    SiluMulKernel(int n_groups, const float* gate_up, float* out) {
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= n_groups) return;
  const auto* row =
      reinterpret_cast<const Floats<kWidth>*>(gate_up) + int64_t{2} * blockIdx.x * n_groups;
  const Floats<kWidth> gate = row[i];
  const Floats<kWidth> up = row[n_groups + i];
  Floats<kWidth> y;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    y.at[k] = gate.at[k] / (1.0f + expf(-gate.at[k])) * up.at[k];
  }
  reinterpret_cast<Floats<kWidth>*>(out)[int64_t{blockIdx.x} * n_groups + i] = y;
}

}  // namespace

void SiluMul(CudaDevice& device, int64_t n_tokens, int64_t hidden_dim, const float* gate_up,
             float* out) {
  const bool vectors = hidden_dim % 4 == 0;
  const int64_t n_groups = vectors ? hidden_dim / 4 : hidden_dim;
  LaunchKernel(
      device,
      {.n_blocks_x = n_tokens, .n_blocks_y = CeilDiv(n_groups, kThreads), .n_threads = kThreads},
      vectors ? SiluMulKernel<4> : SiluMulKernel<1>, n_groups, gate_up, out);
}

}  // namespace bora
