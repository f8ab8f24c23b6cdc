#include "base/bf16.h"
#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/rope_store_kv.h"

namespace bora {
namespace {

constexpr int kThreads = 128;

// The kernel's arguments, as in RopeAndStoreKv.
struct Params {
  RopeTableView rope;
  KvLayerView cache;
  const int32_t* positions;        // [n_tokens]
  const int32_t* token_table_row;  // [n_tokens]
  const int32_t* block_table;      // [n_slots, max_blocks_per_row]
  int64_t max_blocks_per_row;
  int local_n_heads;
  float* qkv;  // [n_tokens, (local_n_heads + 2 * local_n_kv_heads) * head_dim]
};

// Loads kWidth floats, up to 16 bytes at a time.
template <int kWidth>
__device__ Floats<kWidth> Load(const float* from) {
  constexpr int kPart = kWidth < 4 ? kWidth : 4;
  Floats<kWidth> x;
#pragma unroll
  for (int part = 0; part < kWidth; part += kPart) {
    const auto loaded = *reinterpret_cast<const Floats<kPart>*>(from + part);
#pragma unroll
    for (int k = 0; k < kPart; ++k) x.at[part + k] = loaded.at[k];
  }
  return x;
}

// Stores kWidth floats, up to 16 bytes at a time.
template <int kWidth>
__device__ void Store(const Floats<kWidth>& x, float* to) {
  constexpr int kPart = kWidth < 4 ? kWidth : 4;
#pragma unroll
  for (int part = 0; part < kWidth; part += kPart) {
    Floats<kPart> stored;
#pragma unroll
    for (int k = 0; k < kPart; ++k) stored.at[k] = x.at[part + k];
    *reinterpret_cast<Floats<kPart>*>(to + part) = stored;
  }
}

// Stores kWidth floats rounded to bf16.
template <int kWidth>
__device__ void StoreRounded(const Floats<kWidth>& x, Bf16* to) {
  Bf16s<kWidth> rounded;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) rounded.at[k] = ToBf16(x.at[k]);
  *reinterpret_cast<Bf16s<kWidth>*>(to) = rounded;
}

// A thread has one item: kWidth pairs of a query or key head, to be rotated, or kWidth elements of
// a value head, to be stored. blockIdx.x is the token. Among a token's items the rotated heads come
// first.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) RopeAndStoreKvKernel(Params params) {
  const KvCacheShape& shape = params.cache.shape;
  const int head_dim = static_cast<int>(shape.head_dim);
  const int n_kv_heads = static_cast<int>(shape.local_n_kv_heads);
  const int half = head_dim / 2;
  const int n_rotated = (params.local_n_heads + n_kv_heads) * (half / kWidth);
  const int n_items = n_rotated + n_kv_heads * (head_dim / kWidth);
  const int item = blockIdx.y * kThreads + threadIdx.x;
  if (item >= n_items) return;

  const int64_t token = blockIdx.x;
  const int64_t position = params.positions[token];
  float* row = params.qkv + token * (params.local_n_heads + 2 * n_kv_heads) * head_dim;
  // In 32 bits, because a 64-bit division is a function call on a GPU.
  const auto block_size = static_cast<uint32_t>(shape.block_size);
  const uint32_t block_idx = static_cast<uint32_t>(position) / block_size;
  const int64_t slot = static_cast<uint32_t>(position) % block_size;
  const int64_t block_id =
      params.block_table[params.token_table_row[token] * params.max_blocks_per_row + block_idx];
  if (item >= n_rotated) {
    const int head_idx = (item - n_rotated) / (head_dim / kWidth);
    const int d = (item - n_rotated) % (head_dim / kWidth) * kWidth;
    const float* values = row + (params.local_n_heads + n_kv_heads) * head_dim;
    StoreRounded(Load<kWidth>(values + head_idx * head_dim + d),
                 static_cast<Bf16*>(params.cache.values) +
                     params.cache.RowMajorOffset(block_id, head_idx, slot) + d);
    return;
  }
  const int head_idx = item / (half / kWidth);
  const int d = item % (half / kWidth) * kWidth;
  float* head = row + head_idx * head_dim;
  const auto cosines = Load<kWidth>(params.rope.cosines + position * half + d);
  const auto sines = Load<kWidth>(params.rope.sines + position * half + d);
  const auto low = Load<kWidth>(head + d);
  const auto high = Load<kWidth>(head + half + d);
  Floats<kWidth> rotated_low, rotated_high;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    rotated_low.at[k] = low.at[k] * cosines.at[k] - high.at[k] * sines.at[k];
    rotated_high.at[k] = high.at[k] * cosines.at[k] + low.at[k] * sines.at[k];
  }
  if (head_idx < params.local_n_heads) {
    Store(rotated_low, head + d);
    Store(rotated_high, head + half + d);
  } else {
    Bf16* key = static_cast<Bf16*>(params.cache.keys) +
                params.cache.RowMajorOffset(block_id, head_idx - params.local_n_heads, slot);
    StoreRounded(rotated_low, key + d);
    StoreRounded(rotated_high, key + half + d);
  }
}

}  // namespace

void RopeAndStoreKv(CudaDevice& device, const RopeTableView& rope, const StepTokensView& tokens,
                    int64_t local_n_heads, float* qkv, const KvLayerView& cache) {
  CHECK(cache.shape.dtype == DType::kBf16) << "the cache must be bf16";
  const int64_t head_dim = cache.shape.head_dim;
  const int64_t half = DivExact(head_dim, 2);
  const int64_t width = half % 8 == 0 ? 8 : 1;
  const int64_t n_kv_heads = cache.shape.local_n_kv_heads;
  const int64_t n_items =
      (local_n_heads + n_kv_heads) * (half / width) + n_kv_heads * (head_dim / width);
  const Params params = {.rope = rope,
                         .cache = cache,
                         .positions = tokens.positions,
                         .token_table_row = tokens.token_table_row,
                         .block_table = tokens.block_table,
                         .max_blocks_per_row = tokens.max_blocks_per_row,
                         .local_n_heads = static_cast<int>(local_n_heads),
                         .qkv = qkv};
  LaunchKernel(device,
               {.n_blocks_x = tokens.n_tokens,
                .n_blocks_y = CeilDiv(n_items, kThreads),
                .n_threads = kThreads},
               width == 8 ? RopeAndStoreKvKernel<8> : RopeAndStoreKvKernel<1>, params);
}

void LoadRopeStoreKvKernels() { LoadKernels(RopeAndStoreKvKernel<1>, RopeAndStoreKvKernel<8>); }

}  // namespace bora
