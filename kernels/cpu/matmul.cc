#include "kernels/matmul.h"

#include <algorithm>

#include "base/int_math.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/silu_mul.h"

namespace bora {
namespace {

// Rows of x that are packed at a time. 512 x 14336 bf16 are 14 MB, which a last-level cache holds
// while all panels of w are read; reading w again for the next 512 rows costs nothing at that
// height.
constexpr int64_t kPackRows = 512;

// The least multiply-adds of a chunk: they take about as long as waking a helper (5 us at 25-50
// G/s).
constexpr int64_t kGrainMultiplyAdds = 128 << 10;

// The inner loops for a product of n_rows rows of x, by the device's SimdChoice.
ProductLoops LoopsOf(const CpuDevice& device, WeightFormat format, int64_t n_rows) {
  const SimdChoice& choice = device.simd_choice();
  if (format == WeightFormat::kBf16) return choice.bf16_products[RowClassOf(n_rows)];
  const bool is_last_class = RowClassOf(n_rows) == kNumRowClasses - 1;
  return {choice.level, format == WeightFormat::kF16 && is_last_class && choice.f16_widened};
}

// Floats that one row of x takes in packed form. With kInt8 a step is 4 bytes of x, and each group
// of columns adds a scale.
int64_t PackedRowFloats(const PackedWeight& w, int64_t step_floats) {
  const int64_t n_steps = w.padded_cols() / w.step_cols();
  if (w.format != WeightFormat::kInt8) return n_steps * step_floats;
  return n_steps + w.padded_cols() / w.group_cols();
}

// The plan of one product of n_rows <= kPackRows rows of x: its loops, and the sizes of its parts
// in the device's scratch.
struct Product {
  Product(const CpuDevice& device, const PackedWeight& w, int64_t n_rows)
      : loops(LoopsOf(device, w.format, n_rows)),
        simd(GetSimdKernels(loops.level)),
        kernels(simd.matmul[static_cast<int>(w.format)]),
        row_floats(PackedRowFloats(w, kernels.step_floats)),
        // Tiles of nearly equal height: 13 rows as 7 + 6, not 12 + 1.
        n_tiles(CeilDiv(n_rows, simd.matmul_tile_rows)),
        x_floats(RoundUp(n_rows * row_floats, kSimdLanes)),
        wide_floats(loops.widened && kernels.widens ? WideFloats(w, n_tiles) : 0) {}

  const ProductLoops loops;
  const SimdKernels& simd;
  const MatMulKernels& kernels;
  const int64_t row_floats;   // of one packed row of x
  const int64_t n_tiles;      // of x
  const int64_t x_floats;     // of the packed rows of x
  const int64_t wide_floats;  // of each thread, after the packed rows; 0: panels are not widened

  int64_t ScratchFloats(int n_threads) const { return x_floats + n_threads * wide_floats; }
};

}  // namespace

int64_t MatMulScratchFloats(const CpuDevice& device, int64_t max_rows, const PackedWeight& w) {
  // Within a class of rows the scratch grows with the rows, so the last number of rows of each
  // class needs the most.
  int64_t n_floats = 0;
  for (int i = 0; i < kNumRowClasses && kRowClasses[i] <= max_rows; ++i) {
    const int64_t end = i + 1 < kNumRowClasses ? kRowClasses[i + 1] - 1 : kPackRows;
    const Product product(device, w, std::min({end, max_rows, kPackRows}));
    n_floats = std::max(n_floats, product.ScratchFloats(device.n_threads()));
  }
  return n_floats;
}

void MatMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w, float* y) {
  for (int64_t begin = 0; begin < m; begin += kPackRows) {
    const int64_t n_rows = std::min(kPackRows, m - begin);
    const Product product(device, w, n_rows);
    const int64_t n_tiles = product.n_tiles;
    float* const packed = device.Scratch(product.ScratchFloats(device.n_threads()));
    const MatMulTask whole = {.x = packed,
                              .m = n_rows,
                              .n_tiles = n_tiles,
                              .row_floats = product.row_floats,
                              .w = static_cast<const char*>(w.data),
                              .n_panels = w.n_panels(),
                              .panel_bytes = w.panel_bytes(),
                              .n_leaves = w.n_leaves,
                              .leaf_cols = w.leaf_cols(),
                              .group_cols = w.group_cols(),
                              .y = y + begin * w.n_rows,
                              .y_stride = w.n_rows,
                              .n_outputs = w.n_rows};
    // Packing 16 Ki elements takes about as long as waking a helper.
    const int64_t tile_grain = CeilDiv((16 << 10) * n_tiles, n_rows * w.n_cols);
    device.ParallelFor(n_tiles, tile_grain, [&](int64_t first, int64_t last) {
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t row = n_rows * tile / n_tiles;
        const int64_t height = n_rows * (tile + 1) / n_tiles - row;
        product.kernels.pack(x + (begin + row) * w.n_cols, height, w.n_cols, whole,
                             packed + row * product.row_floats);
      }
    });
    const int64_t grain = CeilDiv(kGrainMultiplyAdds, w.padded_cols() * kPanelRows * n_rows);
    const auto multiply = [&](int thread, int64_t first, int64_t last) {
      MatMulTask task = whole;
      task.w += first * task.panel_bytes;
      task.n_panels = last - first;
      task.n_panels_ahead = w.n_panels() - first;
      if (product.wide_floats > 0) {
        task.wide = packed + product.x_floats + thread * product.wide_floats;
      }
      task.y += first * kPanelRows;
      task.n_outputs = std::min(last * kPanelRows, w.n_rows) - first * kPanelRows;
      product.kernels.multiply(task);
    };
    device.ParallelForThreads(w.n_panels(), grain, multiply);
  }
}

void MatMulSiluMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w,
                   float* gate_up, float* hidden) {
  MatMul(device, x, m, w, gate_up);
  SiluMul(device, m, DivExact(w.n_rows, 2), gate_up, hidden);
}

}  // namespace bora
