#include "kernels/cuda/matmul_plan.h"

#include "base/int_math.h"

namespace bora {

namespace {

// Tiles that a weight of n_rows rows has.
int64_t RowTiles(MatMulTileIdx tile, int64_t n_rows) {
  return CeilDiv(n_rows, kMatMulTiles[tile].rows());
}

// The tile for m rows of x, by the measurements and derivations at kMatMulTiles.
MatMulTileIdx TileFor(int64_t m, int64_t n_rows, int64_t n_leaves, int n_multiprocessors) {
  if (m > 64) return kSquare128;
  if (m > 32) return kTall64;
  if (m > 16) return kTall32;
  // The narrow tiles sum kMaxCudaLeaves leaves at the same time, so they need a weight with as
  // many.
  if (n_leaves < kMaxCudaLeaves) return kTall16;
  if (m <= 8) return kNarrow8;
  return RowTiles(kTall16, n_rows) >= n_multiprocessors ? kTall16 : kNarrow16;
}

}  // namespace

MatMulPlan PlanMatMul(int64_t m, int64_t n_rows, int64_t n_leaves, int n_multiprocessors) {
  MatMulPlan plan = {TileFor(m, n_rows, n_leaves, n_multiprocessors), 1};
  const MatMulTile& tile = kMatMulTiles[plan.tile];
  // A tile with several leaf warps already works on all leaves at once.
  if (tile.n_leaf_warps > 1) return plan;
  const int64_t n_tiles = RowTiles(plan.tile, n_rows) * CeilDiv(m, tile.tokens());
  // Splits the leaves among blocks until every multiprocessor has one.
  while (plan.n_splits < n_leaves && n_tiles * plan.n_splits < n_multiprocessors) {
    plan.n_splits *= 2;
  }
  return plan;
}

int64_t PlanScratchBytes(const MatMulPlan& plan, int64_t m, int64_t n_rows) {
  if (plan.n_splits == 1) return 0;
  return plan.n_splits * m * n_rows * static_cast<int64_t>(sizeof(float));
}

int64_t GatedPlanScratchBytes(const MatMulPlan& plan, int64_t m, int64_t n_rows) {
  if (plan.n_splits == 1) return 0;
  return PlanScratchBytes(plan, m, n_rows) + m * n_rows * static_cast<int64_t>(sizeof(float));
}

}  // namespace bora
