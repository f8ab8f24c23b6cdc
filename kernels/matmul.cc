#include "kernels/matmul.h"

#include <algorithm>

#include "base/int_math.h"
#include "kernels/silu_mul.h"
#include "kernels/simd.h"

namespace bora {
namespace {

// Rows of x that are packed at a time: 512 x 14336 bf16 are 14 MB, which a last-level cache holds
// while all panels of w pass by, and the second reading of w costs nothing at 512 rows.
constexpr int64_t kPackRows = 512;

// Multiply-adds that take about as long as waking a helper (5 us at 25-50 G/s).
constexpr int64_t kGrainMultiplyAdds = 128 << 10;

const MatMulKernels& KernelsOf(const CpuDevice& device, const PackedWeight& w) {
  return device.simd().matmul[static_cast<int>(w.format)];
}

// Floats that the packed form of one row of x takes.
int64_t PackedRowFloats(const PackedWeight& w, int64_t step_floats) {
  const int64_t n_steps = w.padded_cols() / w.step_cols();
  if (w.format != WeightFormat::kInt8) return n_steps * step_floats;
  return n_steps + w.padded_cols() / w.group_cols();
}

}  // namespace

int64_t MatMulScratchFloats(const CpuDevice& device, int64_t max_rows, const PackedWeight& w) {
  return std::min(kPackRows, max_rows) * PackedRowFloats(w, KernelsOf(device, w).step_floats);
}

void MatMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w, float* y) {
  const MatMulKernels& kernels = KernelsOf(device, w);
  const int64_t row_floats = PackedRowFloats(w, kernels.step_floats);
  for (int64_t begin = 0; begin < m; begin += kPackRows) {
    const int64_t n_rows = std::min(kPackRows, m - begin);
    // Tiles of nearly equal height: 13 rows as 7 + 6, not 12 + 1.
    const int64_t n_tiles = CeilDiv(n_rows, device.simd().matmul_tile_rows);
    float* const packed = device.Scratch(n_rows * row_floats);
    const MatMulTask whole = {.x = packed,
                              .m = n_rows,
                              .n_tiles = n_tiles,
                              .row_floats = row_floats,
                              .w = static_cast<const char*>(w.data),
                              .n_panels = w.n_panels(),
                              .panel_bytes = w.panel_bytes(),
                              .n_leaves = w.n_leaves,
                              .leaf_cols = w.leaf_cols(),
                              .group_cols = w.group_cols(),
                              .y = y + begin * w.n_rows,
                              .y_stride = w.n_rows,
                              .n_outputs = w.n_rows};
    // 16 Ki elements take about as long as waking a helper.
    const int64_t tile_grain = CeilDiv((16 << 10) * n_tiles, n_rows * w.n_cols);
    device.ParallelFor(n_tiles, tile_grain, [&](int64_t first, int64_t last) {
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t row = n_rows * tile / n_tiles;
        const int64_t height = n_rows * (tile + 1) / n_tiles - row;
        kernels.pack(x + (begin + row) * w.n_cols, height, w.n_cols, whole,
                     packed + row * row_floats);
      }
    });
    const int64_t grain = CeilDiv(kGrainMultiplyAdds, w.padded_cols() * kPanelRows * n_rows);
    device.ParallelFor(w.n_panels(), grain, [&](int64_t first, int64_t last) {
      MatMulTask task = whole;
      task.w += first * task.panel_bytes;
      task.n_panels = last - first;
      task.n_panels_ahead = w.n_panels() - first;
      task.y += first * kPanelRows;
      task.n_outputs = std::min(last * kPanelRows, w.n_rows) - first * kPanelRows;
      kernels.multiply(task);
    });
  }
}

void MatMulSiluMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w,
                   float* gate_up, float* hidden) {
  MatMul(device, x, m, w, gate_up);
  SiluMul(device, m, DivExact(w.n_rows, 2), gate_up, hidden);
}

}  // namespace bora
