#include <algorithm>

#include "base/bf16.h"
#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/runtime/matrix_library.h"
#include "kernels/cuda/silu_device.h"
#include "kernels/cuda/vector_access.h"
#include "kernels/matmul.h"
#include "kernels/packed_weight.h"
#include "kernels/silu_mul.h"

namespace bora {
namespace {

// Columns of an instruction, instructions along a stage, and chunks of a stage's row.
constexpr int kStepCols = static_cast<int>(kCudaLeafAlignment);
constexpr int kSteps = kStageCols / kStepCols;
constexpr int kChunks = kStageCols / kChunkCols;

// Tiles of tokens that share each tile of rows among the blocks of a wave. With 8 tiles of 128
// tokens a wave of 132 blocks is nearly square, about 8 x 16 tiles, so that its share of both
// matrices is small.
constexpr int64_t kMaxTokenTilesAside = 8;

// The arguments of the kernel.
struct MatMulTask {
  const Bf16* x;  // [m, n_cols]
  const Bf16* w;  // [n_rows, n_cols]
  float* y;       // [n_splits, m, n_rows]: for each split, the tree's sums of its leaves
  Bf16* hidden;   // [m, n_rows / 2]: if not null, the gated activation of y is written here instead
                  // of y
  int m;
  int n_rows;
  int n_cols;
  int leaf_cols;
  int n_splits;
  int n_block_leaves;     // leaves of a split
  int token_tiles_aside;  // the fastest index of blockIdx.x, before splits and tiles of rows
};

// The part of the product that a thread works on.
template <int kTileIdx>
struct Position {
  static constexpr MatMulTile kTile = kMatMulTiles[kTileIdx];

  __device__ explicit Position(const MatMulTask& task)
      : lane(threadIdx.x % kWarpSize),
        group(threadIdx.x / kTile.group_threads()),
        thread(threadIdx.x % kTile.group_threads()) {
    const int aside = blockIdx.x % task.token_tiles_aside;
    const int tile_and_split = blockIdx.x / task.token_tiles_aside;
    token_begin = (blockIdx.y * task.token_tiles_aside + aside) * kTile.tokens();
    row_begin = tile_and_split / task.n_splits * kTile.rows();
    split = tile_and_split % task.n_splits;
    warp_row = thread / kWarpSize % kTile.n_row_warps * kTile.warp_rows;
    warp_token = thread / kWarpSize / kTile.n_row_warps * kTile.warp_tokens;
  }

  int lane;
  int group;                          // of the threads that share stages
  int thread;                         // index in the group
  int token_begin, row_begin, split;  // of the block
  int warp_row, warp_token;           // of the warp, within the block's tile
};

// The sums of a warp's part of a tile, as the instruction leaves them in registers: weight rows on
// its m16 side, tokens on its n8 side.
template <int kTileIdx>
struct Sums {
  static constexpr int kRowTiles = kMatMulTiles[kTileIdx].warp_rows / 16;
  static constexpr int kTokenTiles = kMatMulTiles[kTileIdx].warp_tokens / 8;
  static constexpr int kCount = kRowTiles * kTokenTiles * 4;

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) At(i) = 0.0f;
  }
  __device__ void Add(const Sums& other) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) At(i) += other.At(i);
  }
  // Keep stores the sums to shared memory, AddKept adds them from there. A thread reads the sums
  // that it stored itself, or those of the thread with the same index in another group. kept:
  // [kCount, n_threads].
  __device__ void Keep(float* kept, int n_threads, int thread) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) kept[i * n_threads + thread] = At(i);
  }
  __device__ void AddKept(const float* kept, int n_threads, int thread) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) At(i) += kept[i * n_threads + thread];
  }

  // The sums as one array of kCount.
  __device__ float& At(int i) { return at[i / 4 / kTokenTiles][i / 4 % kTokenTiles][i % 4]; }
  __device__ float At(int i) const { return at[i / 4 / kTokenTiles][i / 4 % kTokenTiles][i % 4]; }

  float at[kRowTiles][kTokenTiles][4];
};

// Begins to copy kRows rows of a stage with kThreads threads, 8 chunks per row. from: the first
// row's first column of the stage. Rows from n_rows on and columns from n_cols on become zero.
template <int kRows, int kThreads>
__device__ void FetchRows(const Bf16* from, int row_stride, int n_rows, int n_cols, int thread,
                          Bf16* stage) {
  constexpr int kRowsAtOnce = kThreads / kChunks;
  static_assert(kRows % kRowsAtOnce == 0);
  const int chunk = thread % kChunks;
#pragma unroll
  for (int i = 0; i < kRows / kRowsAtOnce; ++i) {
    const int row = thread / kChunks + i * kRowsAtOnce;
    const bool is_there = row < n_rows && chunk * kChunkCols < n_cols;
    const int offset = is_there ? row * row_stride + chunk * kChunkCols : 0;
    CopyAsync16(stage + StagedAt(row, chunk), from + offset, is_there ? 16 : 0);
  }
}

// The operands of one step of 16 columns, in registers.
template <int kTileIdx>
struct Fragments {
  static constexpr int kRowTiles = Sums<kTileIdx>::kRowTiles;
  static constexpr int kTokenTiles = Sums<kTileIdx>::kTokenTiles;
  static_assert(kTokenTiles == 1 || kTokenTiles % 2 == 0);

  // Loads step `step` of a stage. w, x: the warp's first row and first token of the stage. The four
  // matrices of a load are the four registers of the weight's 16 x 16 tile, or the two registers of
  // each of two neighbouring tiles of tokens.
  __device__ void Load(const Bf16* w, const Bf16* x, int step, int lane) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      LoadMatrices(rows[i], w + StagedAt(i * 16 + lane % 16, step * 2 + lane / 16));
    }
#pragma unroll
    for (int i = 0; i < kTokenTiles; i += 2) {
      // If there is a single tile of tokens it is loaded twice.
      const int token = i * 8 + lane % 8 + (kTokenTiles > 1 ? lane / 16 * 8 : 0);
      uint32_t two[4];
      LoadMatrices(two, x + StagedAt(token, step * 2 + lane / 8 % 2));
      tokens[i][0] = two[0], tokens[i][1] = two[1];
      if (kTokenTiles > 1) tokens[i + 1][0] = two[2], tokens[i + 1][1] = two[3];
    }
  }

  // sums += weight rows x tokens.
  __device__ void MultiplyAdd(Sums<kTileIdx>& sums) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) MultiplyAddBf16(sums.at[i][j], rows[i], tokens[j]);
    }
  }

  uint32_t rows[kRowTiles][4];
  uint32_t tokens[kTokenTiles][2];
};

// Streams the columns of the leaves that the thread's group multiplies through the stages.
template <int kTileIdx>
class LeafStream {
 public:
  static constexpr MatMulTile kTile = kMatMulTiles[kTileIdx];
  static constexpr int kStages = kTile.n_stages;

  // Takes the stages from shared memory and begins to copy all but one of them.
  __device__ LeafStream(Shared& shared, const MatMulTask& task, const Position<kTileIdx>& at)
      : task_(task),
        at_(at),
        w_(task.w + int64_t{at.row_begin} * task.n_cols),
        x_(task.x + int64_t{at.token_begin} * task.n_cols) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      w_stages_[i] = shared.Take<Bf16>(kTile.n_leaf_warps * kTile.rows() * kStageCols) +
                     at.group * kTile.rows() * kStageCols;
      x_stages_[i] = shared.Take<Bf16>(kTile.n_leaf_warps * kTile.tokens() * kStageCols) +
                     at.group * kTile.tokens() * kStageCols;
    }
    const int n_own = task.n_block_leaves / kTile.n_leaf_warps;
    col_ = (at.split * task.n_block_leaves + at.group * n_own) * task.leaf_cols;
    leaf_end_ = col_ + task.leaf_cols;
    end_ = col_ + n_own * task.leaf_cols;
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) Fetch(w_stages_[i], x_stages_[i]);
  }

  // Computes the sums of the next leaf, each in one chain of instructions.
  __device__ void SumLeaf(Sums<kTileIdx>& sums) {
    sums.Clear();
    for (int col = 0; col < task_.leaf_cols; col += kStageCols) {
      // The barrier makes the arrived stage visible to all threads that share it. It also means
      // that all of them have multiplied the stage before, which is refilled now.
      AwaitCopies<kStages - 2>();
      if (kTile.group_threads() == kWarpSize) {
        __syncwarp();
      } else {
        __syncthreads();
      }
      Fetch(w_stages_[kStages - 1], x_stages_[kStages - 1]);
      Multiply(task_.leaf_cols - col, sums);
      Rotate();
    }
  }

 private:
  // Begins to copy the next stage, which ends where its leaf ends. Commits a group of copies even
  // if no column is left, because AwaitCopies counts groups.
  __device__ void Fetch(Bf16* w_stage, Bf16* x_stage) {
    if (col_ < end_) {
      FetchRows<kTile.rows(), kTile.group_threads()>(w_ + col_, task_.n_cols,
                                                     task_.n_rows - at_.row_begin, leaf_end_ - col_,
                                                     at_.thread, w_stage);
      FetchRows<kTile.tokens(), kTile.group_threads()>(x_ + col_, task_.n_cols,
                                                       task_.m - at_.token_begin, leaf_end_ - col_,
                                                       at_.thread, x_stage);
      col_ += kStageCols;
      if (col_ >= leaf_end_) {
        col_ = leaf_end_;
        leaf_end_ += task_.leaf_cols;
      }
    }
    CommitCopies();
  }

  // Multiplies the oldest stage. In a full stage the loads of each step are under way during the
  // step before. In the last stage of a leaf only n_cols columns are multiplied: zeros could change
  // a sum's bits, as in -0 + 0.
  __device__ void Multiply(int n_cols, Sums<kTileIdx>& sums) {
    const Bf16* w = w_stages_[0] + at_.warp_row * kStageCols;
    const Bf16* x = x_stages_[0] + at_.warp_token * kStageCols;
    Fragments<kTileIdx> fragments[2];
    if (n_cols >= kStageCols) {
      fragments[0].Load(w, x, 0, at_.lane);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if (step + 1 < kSteps) fragments[(step + 1) % 2].Load(w, x, step + 1, at_.lane);
        fragments[step % 2].MultiplyAdd(sums);
      }
    } else {
      for (int step = 0; step * kStepCols < n_cols; ++step) {
        fragments[0].Load(w, x, step, at_.lane);
        fragments[0].MultiplyAdd(sums);
      }
    }
  }

  // Makes the second-oldest stage the oldest. The addresses are moved instead of an index, so that
  // they stay in registers.
  __device__ void Rotate() {
    Bf16* const w_oldest = w_stages_[0];
    Bf16* const x_oldest = x_stages_[0];
#pragma unroll
    for (int i = 0; i + 1 < kStages; ++i) {
      w_stages_[i] = w_stages_[i + 1];
      x_stages_[i] = x_stages_[i + 1];
    }
    w_stages_[kStages - 1] = w_oldest;
    x_stages_[kStages - 1] = x_oldest;
  }

  const MatMulTask& task_;
  const Position<kTileIdx>& at_;
  const Bf16* w_;  // the tile's first rows
  const Bf16* x_;
  int col_;  // the next column to fetch, in the leaf that ends at leaf_end_
  int leaf_end_;
  int end_;                  // end of the group's leaves
  Bf16* w_stages_[kStages];  // oldest first; the last one is refilled next
  Bf16* x_stages_[kStages];
};

// Adds the sums of the four groups' leaves, in the first group: (l0 + l1) + (l2 + l3).
template <int kTileIdx>
__device__ void AddGroups(Shared& shared, const Position<kTileIdx>& at, Sums<kTileIdx>& sums) {
  constexpr int kThreads = kMatMulTiles[kTileIdx].group_threads();
  static_assert(kMatMulTiles[kTileIdx].n_leaf_warps == 4);
  float* kept[2];
  kept[0] = shared.Take<float>(Sums<kTileIdx>::kCount * kThreads);
  kept[1] = shared.Take<float>(Sums<kTileIdx>::kCount * kThreads);
  float* const mine = at.group < 2 ? kept[0] : kept[1];
  if (at.group % 2 == 1) sums.Keep(mine, kThreads, at.thread);
  __syncthreads();
  if (at.group % 2 == 0) sums.AddKept(mine, kThreads, at.thread);
  // A thread of group 2 overwrites sums that only it has read.
  if (at.group == 2) sums.Keep(mine, kThreads, at.thread);
  __syncthreads();
  if (at.group == 0) sums.AddKept(kept[1], kThreads, at.thread);
}

// Writes a warp's sums to y, or their gated activation to hidden. A warp writes 8 neighbouring rows
// of 4 tokens at once, which are whole sectors of 32 bytes.
template <int kTileIdx>
__device__ void Store(const MatMulTask& task, const Position<kTileIdx>& at,
                      const Sums<kTileIdx>& sums) {
  static_assert(kGatedGroupRows == 8);
  float* const y = task.y + int64_t{at.split} * task.m * task.n_rows;
#pragma unroll
  for (int i = 0; i < Sums<kTileIdx>::kRowTiles; ++i) {
    const int tile_row = at.row_begin + at.warp_row + i * 16;
    const int row = tile_row + at.lane / 4;
#pragma unroll
    for (int j = 0; j < Sums<kTileIdx>::kTokenTiles * 2; ++j) {
      const int token = at.token_begin + at.warp_token + j / 2 * 8 + at.lane % 4 * 2 + j % 2;
      const float low = sums.at[i][j / 2][j % 2];       // of row
      const float high = sums.at[i][j / 2][2 + j % 2];  // of row + 8
      if (token >= task.m) continue;
      if (task.hidden != nullptr) {
        const int col = tile_row / 2 + at.lane / 4;
        if (row >= task.n_rows) continue;
        task.hidden[int64_t{token} * (task.n_rows / 2) + col] = ToBf16(SiluTimes(low, high));
      } else {
        float* const to = y + int64_t{token} * task.n_rows + row;
        if (row < task.n_rows) to[0] = low;
        if (row + 8 < task.n_rows) to[8] = high;
      }
    }
  }
}

// One tile of the product. While a block without leaf warps goes through its leaves, the tree needs
// some finished sums later: the first leaf of a pair stays in registers, and the sum of the first
// of two pairs goes to shared memory.
template <int kTileIdx>
__global__ void __launch_bounds__(kMatMulTiles[kTileIdx].threads(),
                                  kMatMulTiles[kTileIdx].n_resident) MatMulKernel(MatMulTask task) {
  constexpr MatMulTile kTile = kMatMulTiles[kTileIdx];
  const Position<kTileIdx> at(task);
  if (at.token_begin >= task.m) return;
  Shared shared;
  LeafStream<kTileIdx> stream(shared, task, at);
  Sums<kTileIdx> sums;
  if constexpr (kTile.n_leaf_warps > 1) {
    stream.SumLeaf(sums);
    AddGroups(shared, at, sums);
    if (at.group > 0) return;
  } else {
    float* pair = nullptr;
    if (task.n_block_leaves > 2) pair = shared.Take<float>(sums.kCount * kTile.threads());
    Sums<kTileIdx> first;
    for (int leaf = 0; leaf < task.n_block_leaves; ++leaf) {
      stream.SumLeaf(sums);
      if (leaf % 2 == 0) {
        first = sums;
        continue;
      }
      sums.Add(first);
      if (leaf == 1 && pair != nullptr) sums.Keep(pair, kTile.threads(), at.thread);
      if (leaf == 3) sums.AddKept(pair, kTile.threads(), at.thread);
    }
  }
  Store(task, at, sums);
}

using Kernel = void (*)(MatMulTask);
constexpr Kernel kKernels[kNMatMulTiles] = {MatMulKernel<0>, MatMulKernel<1>, MatMulKernel<2>,
                                            MatMulKernel<3>, MatMulKernel<4>, MatMulKernel<5>};

constexpr int kTreeThreads = 256;

// Sums the parts of 2 or 4 splits: y = p0 + p1, or (p0 + p1) + (p2 + p3). parts: [n_parts,
// n_groups, kWidth].
template <int kWidth>
__global__ void __launch_bounds__(kTreeThreads)
    TreeSumKernel(int64_t n_groups, int n_parts, const float* parts, float* y) {
  const int64_t i = int64_t{blockIdx.x} * kTreeThreads + threadIdx.x;
  if (i >= n_groups) return;
  const auto* part = reinterpret_cast<const Floats<kWidth>*>(parts) + i;
  Floats<kWidth> sum = part[0];
  const Floats<kWidth> second = part[n_groups];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) sum.at[k] += second.at[k];
  if (n_parts == 4) {
    const Floats<kWidth> third = part[2 * n_groups];
    const Floats<kWidth> fourth = part[3 * n_groups];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum.at[k] += third.at[k] + fourth.at[k];
  }
  reinterpret_cast<Floats<kWidth>*>(y)[i] = sum;
}

// Queues the sum of n_parts parts of n floats each.
void TreeSum(CudaDevice& device, int64_t n, int n_parts, const float* parts, float* y) {
  const bool vectors = n % 4 == 0;
  const int64_t n_groups = vectors ? n / 4 : n;
  LaunchKernel(device, {.n_blocks_x = CeilDiv(n_groups, kTreeThreads), .n_threads = kTreeThreads},
               vectors ? TreeSumKernel<4> : TreeSumKernel<1>, n_groups, n_parts, parts, y);
}

// Ends the process if the weight is not as kernels/matmul.h requires.
void CheckWeight(const PackedWeight& w, WeightLayout layout) {
  CHECK(w.format == WeightFormat::kBf16 && w.layout == layout);
  CHECK(w.n_leaves == 1 || w.n_leaves == 2 || w.n_leaves == kMaxCudaLeaves)
      << w.n_leaves << " leaves";
  CHECK_EQ(w.n_cols % (w.n_leaves * kCudaLeafAlignment), 0) << w.n_cols << " columns";
  CHECK(layout != WeightLayout::kGatedRows || w.n_rows % (2 * kGatedGroupRows) == 0)
      << w.n_rows << " rows";
}

// Queues the kernel: the product into y, [n_splits, m, n_rows], or its gated activation into hidden
// if that is not null.
void Launch(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
            const PackedWeight& w, float* y, Bf16* hidden) {
  const MatMulTile& tile = kMatMulTiles[plan.tile];
  const int64_t n_block_leaves = DivExact(w.n_leaves, plan.n_splits);
  CHECK_EQ(n_block_leaves % tile.n_leaf_warps, 0) << "leaves of a block";
  CHECK(tile.n_leaf_warps == 1 || plan.n_splits == 1);
  const int64_t n_token_tiles = CeilDiv(m, tile.tokens());
  const int64_t aside = std::min(kMaxTokenTilesAside, n_token_tiles);
  const MatMulTask task = {.x = x,
                           .w = static_cast<const Bf16*>(w.data),
                           .y = y,
                           .hidden = hidden,
                           .m = static_cast<int>(m),
                           .n_rows = static_cast<int>(w.n_rows),
                           .n_cols = static_cast<int>(w.n_cols),
                           .leaf_cols = static_cast<int>(w.leaf_cols()),
                           .n_splits = plan.n_splits,
                           .n_block_leaves = static_cast<int>(n_block_leaves),
                           .token_tiles_aside = static_cast<int>(aside)};
  LaunchKernel(device,
               {.n_blocks_x = CeilDiv(w.n_rows, tile.rows()) * plan.n_splits * aside,
                .n_blocks_y = CeilDiv(n_token_tiles, aside),
                .n_threads = tile.threads(),
                .shared_bytes = TileSharedBytes(tile, n_block_leaves)},
               kKernels[plan.tile], task);
}

// The plan for this device.
MatMulPlan PlanFor(const CudaDevice& device, int64_t m, const PackedWeight& w) {
  return PlanMatMul(m, w.n_rows, w.n_leaves, device.limits().n_multiprocessors);
}

}  // namespace

void MatMulByPlan(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
                  const PackedWeight& w, float* y) {
  CheckWeight(w, WeightLayout::kRows);
  if (plan.n_splits == 1) {
    Launch(device, plan, x, m, w, y, nullptr);
  } else {
    auto* parts = reinterpret_cast<float*>(device.Scratch(PlanScratchBytes(plan, m, w.n_rows)));
    Launch(device, plan, x, m, w, parts, nullptr);
    TreeSum(device, m * w.n_rows, plan.n_splits, parts, y);
  }
}

void MatMulSiluMulByPlan(CudaDevice& device, const MatMulPlan& plan, const Bf16* x, int64_t m,
                         const PackedWeight& w, Bf16* hidden) {
  CheckWeight(w, WeightLayout::kGatedRows);
  if (plan.n_splits == 1) {
    Launch(device, plan, x, m, w, nullptr, hidden);
  } else {
    auto* parts =
        reinterpret_cast<float*>(device.Scratch(GatedPlanScratchBytes(plan, m, w.n_rows)));
    float* const gate_up = parts + plan.n_splits * m * w.n_rows;
    Launch(device, plan, x, m, w, parts, nullptr);
    TreeSum(device, m * w.n_rows, plan.n_splits, parts, gate_up);
    SiluMul(device, m, w.n_rows / 2, gate_up, hidden);
  }
}

void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w, float* y) {
  if (m == 0) return;
  if (device.matrix_library() != nullptr && m > kOwnKernelRows) {
    device.matrix_library()->MatMul(device, x, m, w, y);
  } else {
    MatMulByPlan(device, PlanFor(device, m, w), x, m, w, y);
  }
}

void MatMulSiluMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
                   float* gate_up, Bf16* hidden) {
  if (m == 0) return;
  if (device.matrix_library() != nullptr && m > kOwnKernelRows) {
    device.matrix_library()->MatMul(device, x, m, w, gate_up);
    SiluMul(device, m, w.n_rows / 2, gate_up, hidden);
  } else {
    MatMulSiluMulByPlan(device, PlanFor(device, m, w), x, m, w, hidden);
  }
}

int64_t MatMulScratchBytes(const CudaDevice& device, int64_t max_rows, const PackedWeight& w) {
  const auto bytes_of =
      w.layout == WeightLayout::kGatedRows ? GatedPlanScratchBytes : PlanScratchBytes;
  int64_t n_bytes = 0;
  // The most rows do not take the most scratch: with many rows nothing is split.
  for (int64_t m = 1; m <= max_rows; ++m) {
    n_bytes = std::max(n_bytes, bytes_of(PlanFor(device, m, w), m, w.n_rows));
  }
  return n_bytes;
}

void LoadMatMulKernels() {
  LoadKernels(MatMulKernel<0>, MatMulKernel<1>, MatMulKernel<2>, MatMulKernel<3>, MatMulKernel<4>,
              MatMulKernel<5>, TreeSumKernel<1>, TreeSumKernel<4>);
}

}  // namespace bora
