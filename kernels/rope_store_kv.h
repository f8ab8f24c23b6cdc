// Rotary position embedding (Su et al. 2021, half-rotation layout) of queries and keys, and the
// storage of keys and values in the paged cache. With angle = position * theta^(-2i/head_dim), for
// i < head_dim/2:
//   out[i] = in[i] cos(angle) - in[i + head_dim/2] sin(angle)
//   out[i + head_dim/2] = in[i + head_dim/2] cos(angle) + in[i] sin(angle)
#pragma once

#include <vector>

#include "kernels/device_views.h"
#include "kernels/kv_cache.h"

namespace bora {

// The cosines and sines of a RopeTable, in the memory of the device that reads them.
struct RopeTableView {
  const float* cosines = nullptr;  // [n_positions, head_dim/2]
  const float* sines = nullptr;    // [n_positions, head_dim/2]
  int64_t n_positions = 0;
};

// Cosine and sine of every angle, computed in double at load and rounded to float. Immutable after
// construction, so any thread may read it.
class RopeTable {
 public:
  // Covers positions [0, n_positions). REQUIRES: head_dim is even.
  RopeTable(int64_t head_dim, int64_t n_positions, double theta);
  // [head_dim/2] each, for a position in [0, n_positions).
  const float* cosines(int64_t position) const { return &cosines_[position * half_]; }
  const float* sines(int64_t position) const { return &sines_[position * half_]; }

  int64_t n_positions() const { return n_positions_; }

  // The whole table, valid while this object lives; for a copy to another device.
  RopeTableView view() const { return {cosines_.data(), sines_.data(), n_positions_}; }

 private:
  int64_t half_;
  int64_t n_positions_;
  std::vector<float> cosines_;  // [n_positions, head_dim/2]
  std::vector<float> sines_;    // [n_positions, head_dim/2]
};

// qkv: [n_tokens, (local_n_heads + 2 * local_n_kv_heads) * head_dim]; each token has its query
// heads, then its key heads, then its value heads. Queries are rotated in place. Rotated keys and
// the values are rounded to the cache's type and stored at each token's position; whether qkv's own
// keys are rotated is undefined. A position outside the table or a block id outside the cache ends
// the process. Called by the device's thread.
// REQUIRES: the blocks that the tokens fall into are in the block table.
void RopeAndStoreKv(CpuDevice& device, const RopeTable& rope, const StepTokensView& tokens,
                    int64_t local_n_heads, float* qkv, const KvLayerView& cache);

// RopeAndStoreKv on a GPU, queued on the device's stream; all pointers are device memory. Each
// output element is the sum of two products, one of which the compiler may fuse into the sum.
// REQUIRES: the cache is bf16 in CUDA's layout (KvLayerView::RowMajorOffset); positions lie in the
// table and block ids in the cache, which the device does not check.
void RopeAndStoreKv(CudaDevice& device, const RopeTableView& rope, const StepTokensView& tokens,
                    int64_t local_n_heads, float* qkv, const KvLayerView& cache);

}  // namespace bora
