#include "base/bf16.h"
#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cuda_device.h"
#include "kernels/cuda_prelude.h"
#include "kernels/embed.h"
#include "kernels/vector_access.h"

namespace bora {
namespace {

constexpr int kThreads = 128;

// A group of kWidth elements a thread; blockIdx.x is the token.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(int n_groups, const Bf16* table, const int32_t* tokens, float* out) {
  const int i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= n_groups) return;
  const int64_t token_id = tokens[blockIdx.x];
  const Bf16s<kWidth> from = reinterpret_cast<const Bf16s<kWidth>*>(table)[token_id * n_groups + i];
  // 8 floats are two stores of 16 bytes.
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

}  // namespace

void Embed(CudaDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out) {
  CHECK(table.dtype == DType::kBf16) << "the table must be bf16";
  const bool vectors = table.n_cols % 8 == 0;
  const int64_t n_groups = vectors ? table.n_cols / 8 : table.n_cols;
  LaunchKernel(device,
               {.n_blocks_x = static_cast<int64_t>(tokens.size()),
                .n_blocks_y = CeilDiv(n_groups, kThreads),
                .n_threads = kThreads},
               vectors ? EmbedKernel<8> : EmbedKernel<1>, n_groups,
               static_cast<const Bf16*>(table.data), tokens.data(), out);
}

}  // namespace bora
