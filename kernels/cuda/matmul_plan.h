// How CUDA's matrix products divide their work. For matmul.cu, its tests and benchmarks. The plan
// never changes the bits of a result.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/shared_layout.h"
#include "kernels/packed_weight.h"

namespace bora {

// The shape of a block's work: the product of a tile of the weight's rows with a tile of x's rows,
// called tokens. Each of the block's warps owns a part of the tile. In tiles with several leaf
// warps each warp instead owns a leaf, with stages of its own, so that one block has four chains of
// instructions and four streams of bytes under way. A stage is a piece of both matrices in shared
// memory.
struct MatMulTile {
  int n_leaf_warps;   // warps that work on different leaves at the same time
  int n_row_warps;    // warps side by side along the rows, on the same stages
  int n_token_warps;  // warps side by side along the tokens, on the same stages
  int warp_rows;      // weight rows of a warp: a multiple of 16
  int warp_tokens;    // tokens of a warp: 8 or a multiple of 16
  int n_stages;       // stages of kStageCols columns; all but one are in flight
  int n_resident;     // blocks that a multiprocessor of an H100 holds, limited by shared memory

  constexpr int rows() const { return n_row_warps * warp_rows; }
  constexpr int tokens() const { return n_token_warps * warp_tokens; }
  // Threads of a group: those that share a stage.
  constexpr int group_threads() const { return 32 * n_row_warps * n_token_warps; }
  constexpr int threads() const { return group_threads() * n_leaf_warps; }
};

// Columns of a stage: 128 bytes of a row, which are one line of the cache and one row of all banks.
inline constexpr int kStageCols = 64;
// Columns of a chunk: 16 bytes, which a thread copies at once and ldmatrix reads of a row.
inline constexpr int kChunkCols = 8;

// Index of a chunk of a row in a stage. The chunks of each row are permuted, so that the same chunk
// of 8 neighbouring rows lies in different banks.
constexpr int StagedAt(int row, int chunk) {
  return row * kStageCols + (chunk ^ (row % 8)) * kChunkCols;
}

enum MatMulTileIdx { kNarrow8, kNarrow16, kTall16, kTall32, kTall64, kSquare128, kNMatMulTiles };

// The tiles, by MatMulTileIdx.
//
// Products of few tokens are bound by the bytes of the weight. A multiprocessor must have latency
// times its share of the bandwidth in flight, 1 us * 4.3 TB/s / 132 = 33 KB. All bytes also pass
// through the L2 cache at about 5.7 TB/s, and for each tile of rows so do the tile's tokens; with
// four times as many rows as tokens in a tile, the tokens are a quarter of the weight's bytes. For
// a 7B model on 132 multiprocessors this gives, in blocks (waves in brackets):
//                     qkv        o        gate, up    down       lm_head    KB in flight
//                     6144x4096  4096^2   28672x4096  4096x14336 32000x4096 a block, weight only
//   8 tokens          192 (1)    128 (1)  896 (3.4)   128 (1)    1000 (3.8)  64
//   16                192 (1)    128 (1)  448 (1.7)   128 (1)    500 (1.9)   48; tall 56
//   32 and 64         192 (1)    128 (1)  224 (1)     128 (1)    250 (1)     48; 32
// Two blocks are resident on a multiprocessor, so there are 264 places. The blocks of one wave
// share the bandwidth evenly and end together wherever they run, and a last wave of 104 blocks or
// more still has 6 MB in flight. The narrow tiles have 32 rows, because a matrix of 4096 rows needs
// 128 tiles to occupy the multiprocessors; the taller tiles get as many blocks by giving a tile's
// leaves to four blocks (n_splits), whose sums go through memory (1 MB for each 16 tokens of 4096
// rows).
//
// Products of many tokens are bound by arithmetic. The square tile loads 256 rows of 2 bytes for 2
// * 128 * 128 operations: 64 operations per byte, or 365 TFLOP/s at the L2 cache's 5.7 TB/s. This
// is its limit on an H100, not the instruction. A larger tile would leave no room for the sums of
// finished leaves.
inline constexpr MatMulTile kMatMulTiles[kNMatMulTiles] = {
    {4, 1, 1, 32, 8, 5, 2},    // 20 KB per stage, 2 KB of sums
    {4, 1, 1, 32, 16, 4, 2},   // 24 KB per stage, 4 KB of sums
    {1, 4, 1, 16, 16, 8, 2},   // 10 KB per stage, 4 KB of sums
    {1, 4, 1, 32, 32, 4, 2},   // 20 KB per stage, 16 KB of sums
    {1, 4, 1, 32, 64, 3, 2},   // 24 KB per stage, 32 KB of sums
    {1, 2, 4, 64, 32, 3, 1}};  // 32 KB per stage, 64 KB of sums: 160 KB, which an A100 also has

// Bytes of a block's shared memory: its stages, then the sums that its warps exchange or keep.
// n_block_leaves: leaves that the block multiplies.
constexpr int64_t TileSharedBytes(const MatMulTile& tile, int64_t n_block_leaves) {
  SharedBytes bytes;
  for (int i = 0; i < tile.n_stages; ++i) {
    bytes.Add<Bf16>(int64_t{tile.n_leaf_warps} * tile.rows() * kStageCols);
    bytes.Add<Bf16>(int64_t{tile.n_leaf_warps} * tile.tokens() * kStageCols);
  }
  const int64_t n_sums = int64_t{tile.rows()} * tile.tokens();
  if (tile.n_leaf_warps > 1) bytes.Add<float>(n_sums).Add<float>(n_sums);
  if (tile.n_leaf_warps == 1 && n_block_leaves > 2) bytes.Add<float>(n_sums);
  return bytes.bytes();
}

// The shared memory that a GPU must give a block (CheckCudaRequirements). No other operation's
// blocks take more.
inline constexpr int64_t kMaxTileSharedBytes = [] {
  int64_t n_bytes = 0;
  for (const MatMulTile& tile : kMatMulTiles) {
    n_bytes = std::max(n_bytes, TileSharedBytes(tile, kMaxCudaLeaves));
  }
  return n_bytes;
}();

// The division of one product.
struct MatMulPlan {
  MatMulTileIdx tile = kNarrow8;
  // Blocks that share the leaves of a tile evenly: a power of two, at most the weight's n_leaves. 1
  // for tiles with several leaf warps.
  int n_splits = 1;
};

// Chooses the plan for a product of m >= 1 rows of x with a weight of n_rows rows and n_leaves
// leaves. A pure function.
MatMulPlan PlanMatMul(int64_t m, int64_t n_rows, int64_t n_leaves, int n_multiprocessors);

// CudaDevice::Scratch in bytes that a plan takes for a product, and for one with the gated
// activation. If the leaves are split, the scratch holds each split's sums; with the activation it
// also holds the product itself.
int64_t PlanScratchBytes(const MatMulPlan& plan, int64_t m, int64_t n_rows);
int64_t GatedPlanScratchBytes(const MatMulPlan& plan, int64_t m, int64_t n_rows);

// MatMul by a given plan. y: [m, w.n_rows].
// REQUIRES: the tile's leaf warps divide w.n_leaves / n_splits.
void MatMulByPlan(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
                  const PackedWeight& w, float* y);

// MatMulSiluMul by a given plan, with the same requirement.
void MatMulSiluMulByPlan(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
                         const PackedWeight& w, Bf16* hidden);

}  // namespace bora
