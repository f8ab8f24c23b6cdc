// Rotary position embedding (Su et al. 2021, half-rotation layout) on queries and keys, and the
// write of keys and values into the paged cache:
//   for i < head_dim/2, angle = position * theta^(-2i/head_dim):
//   out[i] = in[i] cos - in[i + head_dim/2] sin;  out[i + head_dim/2] = in[i + head_dim/2] cos +
//   in[i] sin
#pragma once

#include <vector>

#include "kernels/device_views.h"
#include "kernels/kv_cache.h"

namespace bora {

// A table of angles where a device can read it.
struct RopeTableView {
  const float* cosines = nullptr;  // [n_positions, head_dim/2]
  const float* sines = nullptr;    // [n_positions, head_dim/2]
  int64_t n_positions = 0;
};

// cos and sin of every angle, made once at load in double and rounded to float. Immutable after
// construction.
class RopeTable {
 public:
  // head_dim even; positions [0, n_positions).
  RopeTable(int64_t head_dim, int64_t n_positions, double theta);
  const float* cosines(int64_t position) const {
    return &cosines_[position * half_];
  }                                                                                 // [head_dim/2]
  const float* sines(int64_t position) const { return &sines_[position * half_]; }  // [head_dim/2]

  int64_t n_positions() const { return n_positions_; }

  // All of it, for a copy to another device.
  RopeTableView view() const { return {cosines_.data(), sines_.data(), n_positions_}; }

 private:
  int64_t half_;
  int64_t n_positions_;
  std::vector<float> cosines_;  // [n_positions, head_dim/2]
  std::vector<float> sines_;    // [n_positions, head_dim/2]
};

// qkv: [n_tokens, (local_n_heads + 2 * local_n_kv_heads) * head_dim]: for each token its query
// heads, key heads, value heads. Queries are rotated in place; rotated keys and values are rounded
// to the cache's type and stored at each token's position. The blocks that the tokens fall into
// must be in the block table.
void RopeAndStoreKv(CpuDevice& device, const RopeTable& rope, const StepTokensView& tokens,
                    int64_t local_n_heads, float* qkv, const KvLayerView& cache);

// The cache must be bf16, and has CUDA's layout (KvLayerView::RowMajorOffset). Positions and block
// ids must lie in the table and in the cache; nobody checks them on the device. Each output element
// is two products and their sum, in which the compiler may fuse one product.
void RopeAndStoreKv(CudaDevice& device, const RopeTableView& rope, const StepTokensView& tokens,
                    int64_t local_n_heads, float* qkv, const KvLayerView& cache);

}  // namespace bora
