// How CUDA's matrix products divide their work. For matmul.cu, its tests and benchmarks: whatever
// the plan, the bits are the same.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/shared_layout.h"
#include "kernels/packed_weight.h"

namespace bora {

// A block multiplies a tile of the weight's rows with a tile of x's rows, the tokens. Its warps
// each own a part of the tile; in tiles with several leaf warps they own a leaf each instead, with
// stages of their own, so that one block has four chains of instructions and four streams of bytes
// under way.
struct MatMulTile {
  int n_leaf_warps;   // leaves at the same time
  int n_row_warps;    // side by side, on the same stages
  int n_token_warps;  // likewise
  int warp_rows;      // a multiple of 16
  int warp_tokens;    // 8 or a multiple of 16
  int n_stages;       // of kStageCols columns; all but one are in flight
  int n_resident;     // blocks that a multiprocessor of an H100 holds, by shared memory

  constexpr int rows() const { return n_row_warps * warp_rows; }
  constexpr int tokens() const { return n_token_warps * warp_tokens; }
  // Threads that share a stage.
  constexpr int group_threads() const { return 32 * n_row_warps * n_token_warps; }
  constexpr int threads() const { return group_threads() * n_leaf_warps; }
};

// Columns of a stage: 128 bytes of a row, which are a line of the cache and all banks once.
inline constexpr int kStageCols = 64;
// 16 bytes: what a thread copies at once and what ldmatrix reads of a row.
inline constexpr int kChunkCols = 8;

// Where the chunk of a row lies in a stage. Rows that follow one another have the same chunk in
// different banks.
constexpr int StagedAt(int row, int chunk) {
  return row * kStageCols + (chunk ^ (row % 8)) * kChunkCols;
}

enum MatMulTileIdx { kNarrow8, kNarrow16, kTall16, kTall32, kTall64, kSquare128, kNMatMulTiles };

// Few tokens are bound by the bytes of the weight. What a multiprocessor must have in flight is
// latency times its share of the bandwidth, 1 us * 4.3 TB/s / 132 = 33 KB. All bytes also pass the
// L2, at about 5.7 TB/s, and with them the tile's tokens once for each tile of rows: rows = 4
// tokens keeps these at a quarter of the weight's bytes. What follows for a 7B model on 132
// multiprocessors, as blocks (waves) of
//                     qkv        o        gate, up    down       lm_head    KB in flight
//                     6144x4096  4096^2   28672x4096  4096x14336 32000x4096 a block, weight only
//   8 tokens          192 (1)    128 (1)  896 (3.4)   128 (1)    1000 (3.8)  64
//   16                192 (1)    128 (1)  448 (1.7)   128 (1)    500 (1.9)   48; tall 56
//   32 and 64         192 (1)    128 (1)  224 (1)     128 (1)    250 (1)     48; 32
// Two blocks are resident on a multiprocessor, so that there are 264 places: blocks of one wave
// share the bandwidth evenly and end together wherever they are, and what is left for the last
// wave, 104 blocks or more, still has 6 MB in flight. The narrow tiles have 32 rows, because a
// matrix of 4096 rows needs 128 tiles; the taller ones reach that by giving a tile's leaves to
// four blocks (n_splits), whose sums go through memory (1 MB for each 16 tokens of 4096 rows).
//
// Many tokens are bound by arithmetic: the square tile loads 256 rows of 2 bytes for 2 * 128 * 128
// operations, 64 a byte, or 365 TFLOP/s at the L2's 5.7 TB/s: this, not the instruction, is its
// limit on an H100. A larger tile has no room for the sums of finished leaves.
inline constexpr MatMulTile kMatMulTiles[kNMatMulTiles] = {
    {4, 1, 1, 32, 8, 5, 2},    // 20 KB a stage, 2 KB of sums
    {4, 1, 1, 32, 16, 4, 2},   // 24 KB, 4 KB
    {1, 4, 1, 16, 16, 8, 2},   // 10 KB, 4 KB
    {1, 4, 1, 32, 32, 4, 2},   // 20 KB, 16 KB
    {1, 4, 1, 32, 64, 3, 2},   // 24 KB, 32 KB
    {1, 2, 4, 64, 32, 3, 1}};  // 32 KB, 64 KB: 160 KB also fit an A100

// Shared memory of a block: its stages, then the sums that its warps hand on or keep meanwhile.
// n_block_leaves: that the block multiplies.
constexpr int64_t TileSharedBytes(const MatMulTile& tile, int64_t n_block_leaves) {
  SharedBytes bytes;
  for (int i = 0; i < tile.n_stages; ++i) {
    bytes.Add<Bf16>(tile.n_leaf_warps * tile.rows() * kStageCols);
    bytes.Add<Bf16>(tile.n_leaf_warps * tile.tokens() * kStageCols);
  }
  const int64_t n_sums = tile.rows() * tile.tokens();
  if (tile.n_leaf_warps > 1) bytes.Add<float>(n_sums).Add<float>(n_sums);
  if (tile.n_leaf_warps == 1 && n_block_leaves > 2) bytes.Add<float>(n_sums);
  return bytes.bytes();
}

// What a GPU must offer a block (CheckCudaRequirements): no other operation's takes more.
inline constexpr int64_t kMaxTileSharedBytes = [] {
  int64_t n_bytes = 0;
  for (const MatMulTile& tile : kMatMulTiles) {
    n_bytes = std::max(n_bytes, TileSharedBytes(tile, kMaxCudaLeaves));
  }
  return n_bytes;
}();

struct MatMulPlan {
  MatMulTileIdx tile = kNarrow8;
  // Blocks that share the leaves of a tile evenly; 1 with several leaf warps, at most n_leaves.
  int n_splits = 1;
};

// A pure function. m: rows of x, at least 1. n_rows, n_leaves: of the weight.
MatMulPlan PlanMatMul(int64_t m, int64_t n_rows, int64_t n_leaves, int n_multiprocessors);

// Scratch that the plan takes for a product, and for one with the gated activation: there it also
// has the product itself.
int64_t PlanScratchBytes(const MatMulPlan& plan, int64_t m, int64_t n_rows);
int64_t GatedPlanScratchBytes(const MatMulPlan& plan, int64_t m, int64_t n_rows);

// MatMul by a plan. y: [m, w.n_rows]. The plan's leaf warps must divide w.n_leaves / n_splits.
void MatMulByPlan(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
                  const PackedWeight& w, float* y);

// MatMulSiluMul by a plan.
void MatMulSiluMulByPlan(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
                         const PackedWeight& w, Bf16* hidden);

}  // namespace bora
