#include "kernels/rope_store_kv.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"

namespace bora {
namespace {

// Writes one token's rotated keys and its values, n_kv_heads heads of each, to a slot of a block.
// Several tokens of a block may be written at once by different threads: only the token's own
// elements are written.
void StoreToken(const CpuDevice& device, const KvLayerView& cache, int64_t block_id, int64_t slot,
                const float* keys, const float* values) {
  const int64_t head_dim = cache.shape.head_dim;
  const int64_t block_size = cache.shape.block_size;
  for (int64_t g = 0; g < cache.shape.local_n_kv_heads; ++g, keys += head_dim, values += head_dim) {
    const int64_t block = cache.BlockOffset(block_id, g);
    if (cache.shape.dtype == DType::kF32) {
      float* to = static_cast<float*>(cache.keys) + block + slot;
      for (int64_t d = 0; d < head_dim; ++d) to[d * block_size] = keys[d];
      std::copy_n(values, head_dim,
                  static_cast<float*>(cache.values) + block + cache.ValueOffset(slot, 0));
      continue;
    }
    Bf16 rounded[kMaxCacheHeadDim];
    device.simd().round_to_bf16(keys, head_dim, rounded);
    Bf16* to = static_cast<Bf16*>(cache.keys) + block + cache.KeyOffset(slot, 0);
    for (int64_t d = 0; d < head_dim; d += 2) {
      std::memcpy(to + d * block_size, rounded + d, 2 * sizeof(Bf16));
    }
    device.simd().round_to_bf16(values, head_dim, rounded);
    to = static_cast<Bf16*>(cache.values) + block + cache.ValueOffset(slot, 0);
    for (int64_t d = 0; d < head_dim; ++d) to[2 * d] = rounded[d];
  }
}

}  // namespace

RopeTable::RopeTable(int64_t head_dim, int64_t n_positions, double theta)
    : half_(DivExact(head_dim, 2)), n_positions_(n_positions) {
  cosines_.resize(n_positions * half_);
  sines_.resize(n_positions * half_);
  for (int64_t i = 0; i < half_; ++i) {
    const double frequency =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    for (int64_t position = 0; position < n_positions; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      cosines_[position * half_ + i] = static_cast<float>(std::cos(angle));
      sines_[position * half_ + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void RopeAndStoreKv(CpuDevice& device, const RopeTable& rope, const StepTokensView& tokens,
                    int64_t local_n_heads, float* qkv, const KvLayerView& cache) {
  const KvCacheShape& shape = cache.shape;
  const int64_t head_dim = shape.head_dim;
  CHECK(head_dim > 0 && head_dim <= kMaxCacheHeadDim && head_dim % 2 == 0) << head_dim;
  CHECK(shape.dtype == DType::kF32 || shape.dtype == DType::kBf16) << "type of a KV cache";
  const int64_t n_kv_heads = shape.local_n_kv_heads;
  const int64_t stride = (local_n_heads + 2 * n_kv_heads) * head_dim;
  // 8192 elements take about as long as waking a helper (5 us).
  const int64_t grain = 1 + 8192 / stride;
  device.ParallelFor(tokens.n_tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t position = tokens.positions[t];
      CHECK(position >= 0 && position < rope.n_positions())
          << "position " << position << " not in [0, " << rope.n_positions() << ")";
      float* row = qkv + t * stride;
      device.simd().rotate(row, local_n_heads + n_kv_heads, head_dim, rope.cosines(position),
                           rope.sines(position));
      const int64_t table_idx =
          tokens.token_table_row[t] * tokens.max_blocks_per_row + position / shape.block_size;
      const int64_t block_id = tokens.block_table[table_idx];
      CHECK(block_id >= 0 && block_id < shape.n_blocks)
          << "block id " << block_id << " not in [0, " << shape.n_blocks << ")";
      const float* keys = row + local_n_heads * head_dim;
      const float* values = keys + n_kv_heads * head_dim;
      const int64_t slot = position % shape.block_size;
      StoreToken(device, cache, block_id, slot, keys, values);
    }
  });
}

}  // namespace bora
