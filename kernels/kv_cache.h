// The memory layout of one rank's paged KV cache. Each layer has a pool of blocks; a block holds
// block_size consecutive tokens of one sequence for all local KV heads. The coordinator decides
// which block belongs to which sequence (the block table); this file only describes the bytes.
#pragma once

#include <cstdint>

#include "kernels/device_views.h"

namespace bora {

// Largest head_dim; the CPU attention's fixed buffers have room for no more.
inline constexpr int64_t kMaxCacheHeadDim = 256;

// Shape of a rank's cache. Its size is 2 * n_layers * n_blocks * local_n_kv_heads * block_size *
// head_dim * DTypeBytes bytes, half of them keys and half values.
struct KvCacheShape {
  DType dtype = DType::kF32;
  int64_t n_layers = 0;
  int64_t n_blocks = 0;  // of each layer
  int64_t local_n_kv_heads = 0;
  int64_t block_size = 16;  // tokens of a block
  int64_t head_dim = 0;

  // Elements of the keys (or of the values) of one block in one layer, and of all blocks of one
  // layer.
  int64_t block_elements() const { return local_n_kv_heads * block_size * head_dim; }
  int64_t layer_elements() const { return n_blocks * block_elements(); }
  int64_t total_bytes() const { return 2 * n_layers * layer_elements() * DTypeBytes(dtype); }
};

// One layer's keys and values. Only RopeAndStoreKv and PagedAttention depend on the layout inside a
// block; code that copies blocks copies block_elements() elements of keys and as many of values.
//
// On a CpuDevice keys lie transposed inside a block, so that the scores of 16 neighbouring
// positions form one vector and need no reduction. In bf16, two neighbouring dimensions of a key
// and two neighbouring positions of a value lie together, because the dot-product instructions take
// pairs; block_size is then even.
//
// On a CudaDevice keys and values are [n_blocks, local_n_kv_heads, block_size, head_dim]
// (RowMajorOffset): one head's part of a block is contiguous.
struct KvLayerView {
  // On a CpuDevice
  //   float: [n_blocks, local_n_kv_heads, head_dim, block_size]
  //   bf16:  [n_blocks, local_n_kv_heads, head_dim / 2, block_size, 2]
  void* keys = nullptr;
  // On a CpuDevice
  //   float: [n_blocks, local_n_kv_heads, block_size, head_dim]
  //   bf16:  [n_blocks, local_n_kv_heads, block_size / 2, head_dim, 2]
  void* values = nullptr;
  KvCacheShape shape;

  // Index of the first element of one KV head's part of a block, in keys and in values alike.
  constexpr int64_t BlockOffset(int64_t block_id, int64_t kv_head_idx) const {
    return (block_id * shape.local_n_kv_heads + kv_head_idx) * shape.block_size * shape.head_dim;
  }

  // On a CpuDevice: elements from BlockOffset to dimension d of one slot. A slot is a place in the
  // block: position modulo block_size.
  int64_t KeyOffset(int64_t slot, int64_t d) const {
    const int64_t n = shape.dtype == DType::kBf16 ? 2 : 1;
    return (d / n * shape.block_size + slot) * n + d % n;
  }
  int64_t ValueOffset(int64_t slot, int64_t d) const {
    const int64_t n = shape.dtype == DType::kBf16 ? 2 : 1;
    return (slot / n * shape.head_dim + d) * n + slot % n;
  }

  // On a CudaDevice: index of the first of the head_dim contiguous elements of one slot.
  constexpr int64_t RowMajorOffset(int64_t block_id, int64_t kv_head_idx, int64_t slot) const {
    return BlockOffset(block_id, kv_head_idx) + slot * shape.head_dim;
  }
};

struct AttentionWorkView;

// The tokens of a step and their places in the cache. A row is the tokens that one sequence has in
// the step; the step's tokens are the rows' tokens, one row after another. All arrays are step
// inputs: filled once per step, then read by every layer.
struct StepTokensView {
  int64_t n_rows = 0;                  // of the step
  int64_t n_tokens = 0;                // of all rows
  const int32_t* row_begin = nullptr;  // [n_rows + 1] first token of each row in the step's tokens
  const int32_t* row_position = nullptr;  // [n_rows] absolute position of the row's first token
  const int32_t* positions = nullptr;     // [n_tokens] absolute position of each token
  // [n_tokens] line of the block table that lists the token's blocks. On a CpuDevice a line is a
  // row of the step; on a CudaDevice, whose table has a line for every slot, it is the row's slot.
  const int32_t* token_table_row = nullptr;
  // [n_rows or n_slots, max_blocks_per_row] block ids, in order of position; entries beyond the
  // row's last token are undefined.
  const int32_t* block_table = nullptr;
  int64_t max_blocks_per_row = 0;
  // On a CudaDevice: the division of the step's attention (kernels/paged_attention.h); else null.
  const AttentionWorkView* attention_work = nullptr;
};

}  // namespace bora
