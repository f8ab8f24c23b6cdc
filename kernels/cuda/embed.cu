#include "base/bf16.h"
#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/embed.h"

namespace bora {
namespace {

// So that EmbedKernel can call ToFloat for any element type.
__device__ inline float ToFloat(float x) { return x; }
using bora::ToFloat;

constexpr int kThreads = 128;

// One group of kWidth elements per thread; blockIdx.x is the token.
template <typename Group, int kWidth>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(int n_groups, const Group* table, const int32_t* tokens, float* out) {
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= n_groups) return;
  const Group from = table[int64_t{tokens[blockIdx.x]} * n_groups + i];
  // A store has at most 4 floats, 16 bytes; 8 floats are two stores.
  constexpr int kStore = kWidth < 4 ? kWidth : 4;
  auto* to = reinterpret_cast<Floats<kStore>*>(out) +
             (int64_t{blockIdx.x} * n_groups + i) * (kWidth / kStore);
#pragma unroll
  for (int part = 0; part < kWidth / kStore; ++part) {
    Floats<kStore> x;
#pragma unroll
    for (int k = 0; k < kStore; ++k) x.at[k] = ToFloat(from.at[part * kStore + k]);
    to[part] = x;
  }
}

template <typename Group, int kWidth>
void LaunchEmbed(CudaDevice& device, const Weight& table, absl::Span<const int32_t> tokens,
                 float* out) {
  const int64_t n_groups = table.n_cols / kWidth;
  LaunchKernel(device,
               {.n_blocks_x = static_cast<int64_t>(tokens.size()),
                .n_blocks_y = CeilDiv(n_groups, kThreads),
                .n_threads = kThreads},
               EmbedKernel<Group, kWidth>, n_groups, static_cast<const Group*>(table.data),
               tokens.data(), out);
}

__global__ void __launch_bounds__(kThreads)
    ResolveTokensKernel(int n_tokens, const int32_t* last_tokens, int32_t* tokens) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < n_tokens && tokens[i] < 0) tokens[i] = last_tokens[-1 - tokens[i]];
}

}  // namespace

void Embed(CudaDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out) {
  if (table.dtype == DType::kBf16) {
    if (table.n_cols % 8 == 0) {
      LaunchEmbed<Bf16s<8>, 8>(device, table, tokens, out);
    } else {
      LaunchEmbed<Bf16s<1>, 1>(device, table, tokens, out);
    }
  } else if (table.n_cols % 4 == 0) {
    LaunchEmbed<Floats<4>, 4>(device, table, tokens, out);
  } else {
    LaunchEmbed<Floats<1>, 1>(device, table, tokens, out);
  }
}

void ResolveTokens(CudaDevice& device, int64_t n_tokens, const int32_t* last_tokens,
                   int32_t* tokens) {
  LaunchKernel(device, {.n_blocks_x = CeilDiv(n_tokens, kThreads), .n_threads = kThreads},
               ResolveTokensKernel, n_tokens, last_tokens, tokens);
}

void LoadEmbedKernels() {
  LoadKernels(EmbedKernel<Bf16s<8>, 8>, EmbedKernel<Bf16s<1>, 1>, EmbedKernel<Floats<4>, 4>,
              EmbedKernel<Floats<1>, 1>, ResolveTokensKernel);
}

}  // namespace bora
