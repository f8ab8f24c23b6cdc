// Paged KV cache of one rank: for each of its layers a pool of blocks, each block holding
// block_size consecutive tokens of one sequence for all local KV heads. The coordinator owns the
// block table; this is the bytes.
#pragma once

#include <cstdint>

#include "kernels/device_views.h"

namespace bora {

// The attention's buffers hold heads of at most this.
inline constexpr int64_t kMaxCacheHeadDim = 256;

// Shape of a rank's cache. Bytes = 2 * n_layers * n_blocks * local_n_kv_heads * block_size *
// head_dim * DTypeBytes.
struct KvCacheShape {
  DType dtype = DType::kF32;
  int64_t n_layers = 0;
  int64_t n_blocks = 0;
  int64_t local_n_kv_heads = 0;
  int64_t block_size = 16;  // tokens
  int64_t head_dim = 0;

  // Elements of K (or of V) of one block in one layer, and of all blocks of one layer.
  int64_t block_elements() const { return local_n_kv_heads * block_size * head_dim; }
  int64_t layer_elements() const { return n_blocks * block_elements(); }
  int64_t total_bytes() const { return 2 * n_layers * layer_elements() * DTypeBytes(dtype); }
};

// One layer's keys and values. Only RopeAndStoreKv and PagedAttention depend on the layout; whoever
// copies blocks copies block_elements() from each.
//
// On a CpuDevice keys lie transposed inside a block, so that the scores of 16 neighbouring
// positions are one vector and need no reduction. In bf16 two neighbouring dimensions of a key and
// two neighbouring positions of a value lie together, as the dot-product instructions take them;
// block_size is even then.
//
// On a CudaDevice keys and values are [n_blocks, local_n_kv_heads, block_size, head_dim]
// (RowMajorOffset): a head's part of a block is one piece of memory.
struct KvLayerView {
  // On a CpuDevice:
  // float: [n_blocks, local_n_kv_heads, head_dim, block_size]
  // bf16:  [n_blocks, local_n_kv_heads, head_dim / 2, block_size, 2]
  void* keys = nullptr;
  // float: [n_blocks, local_n_kv_heads, block_size, head_dim]
  // bf16:  [n_blocks, local_n_kv_heads, block_size / 2, head_dim, 2]
  void* values = nullptr;
  KvCacheShape shape;

  // First element of a (block, head) in keys and in values.
  constexpr int64_t BlockOffset(int64_t block_id, int64_t kv_head_idx) const {
    return (block_id * shape.local_n_kv_heads + kv_head_idx) * shape.block_size * shape.head_dim;
  }

  // On a CpuDevice: elements from there to one dimension of one slot (position modulo block_size).
  int64_t KeyOffset(int64_t slot, int64_t d) const {
    const int64_t n = shape.dtype == DType::kBf16 ? 2 : 1;
    return (d / n * shape.block_size + slot) * n + d % n;
  }
  int64_t ValueOffset(int64_t slot, int64_t d) const {
    const int64_t n = shape.dtype == DType::kBf16 ? 2 : 1;
    return (slot / n * shape.head_dim + d) * n + slot % n;
  }

  // On a CudaDevice: the first of the head_dim neighbouring elements of a slot.
  constexpr int64_t RowMajorOffset(int64_t block_id, int64_t kv_head_idx, int64_t slot) const {
    return BlockOffset(block_id, kv_head_idx) + slot * shape.head_dim;
  }
};

struct AttentionWorkView;

// Where the rows of a step lie: a step's tokens are concatenated row after row; all arrays are step
// inputs that are filled once per step and reused.
struct StepTokensView {
  int64_t n_rows = 0;
  int64_t n_tokens = 0;
  const int32_t* row_begin = nullptr;  // [n_rows + 1] first token of each row in the step's tokens
  const int32_t* row_position = nullptr;  // [n_rows] absolute position of the row's first token
  const int32_t* positions = nullptr;     // [n_tokens] absolute position of each token
  // [n_tokens] line of the block table that holds the token's blocks: on a CpuDevice the row of
  // the token, on a CudaDevice, which keeps the tables of all slots, its slot.
  const int32_t* token_table_row = nullptr;
  // [n_rows or n_slots, max_blocks_per_row] block ids, valid as far as the row needs
  const int32_t* block_table = nullptr;
  int64_t max_blocks_per_row = 0;
  // On a CudaDevice: how the step's attention is divided (kernels/paged_attention.h).
  const AttentionWorkView* attention_work = nullptr;
};

}  // namespace bora
