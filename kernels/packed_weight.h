// Weight matrices in the order in which the inner loops read them. A matrix is packed once at load;
// every product then reads it front to back.
//
// For a CpuDevice (WeightLayout::kPanels) output rows are grouped in panels of 32. Inside a panel
// the columns come in ascending order. One step of the inner loop takes 1, 2 or 4 neighbouring
// columns of all 32 rows: 128 contiguous bytes. The layout is the same for every instruction set.
//
// For a CudaDevice (WeightLayout::kRows) the rows lie one after another instead, because its
// products fetch tiles of a matrix straight into shared memory.
//
// Columns are cut into `n_leaves` equal leaves. A product sums each leaf in ascending order and
// adds the leaves up as a balanced binary tree. Tensor-parallel ranks that each hold whole subtrees
// and add up their sums in the same tree therefore get the bits of a single rank.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "base/int_math.h"
#include "base/number_formats.h"
#include "kernels/device_views.h"

namespace bora {

// kPanels: panels as described at the top, for a CpuDevice. kRows: [n_rows, n_cols], for a
// CudaDevice, bf16 only. kGatedRows: kRows with the rows of two stacked matrices of equal height,
// the gate's and the up projection's, interleaved in groups of 8, so that MatMulSiluMul finds both
// rows of an output element in one tile: row r of the gate lies at GatedRow(r), row r of the up
// projection 8 rows after it.
enum class WeightLayout { kPanels, kRows, kGatedRows };

// Rows of a group in layout kGatedRows.
inline constexpr int64_t kGatedGroupRows = 8;

// Where row `row` of the gate lies in layout kGatedRows.
constexpr int64_t GatedRow(int64_t row) {
  return row / kGatedGroupRows * 2 * kGatedGroupRows + row % kGatedGroupRows;
}

// What a CudaDevice's products require of a matrix. n_cols and the columns of a leaf are multiples
// of kCudaLeafAlignment, as an instruction multiplies 16 columns at once. There are at most
// kMaxCudaLeaves leaves, whose sums fit on chip.
inline constexpr int64_t kCudaLeafAlignment = 16;
inline constexpr int64_t kMaxCudaLeaves = 4;

// Output rows of a panel.
inline constexpr int64_t kPanelRows = 32;
// Bytes of one step of the inner loop for all rows of a panel, whatever the format.
inline constexpr int64_t kStepBytes = kPanelRows * 4;
// kInt8: each group of a panel begins with [32] float scales and [32] int32 offsets. A row's offset
// is -128 times the sum of its weights in the group: it cancels the bias of 128 that the inner
// loop's input bytes have.
inline constexpr int64_t kGroupOffsetsBegin = kPanelRows * 4;
inline constexpr int64_t kGroupHeaderBytes = kPanelRows * 8;
// Most leaves of a matrix. Tensor parallelism cuts columns only between leaves, so it can cut a
// matrix up to 8 ways.
inline constexpr int64_t kMaxLeaves = 8;
// Columns of a leaf are a multiple of this. A matrix whose columns are not is a single leaf, padded
// with zero columns.
inline constexpr int64_t kLeafAlignment = 4;
// Most columns that share a scale. At 128, the 8 bytes of scale and offset add 6 % to the weights.
inline constexpr int64_t kMaxGroupCols = 128;

// Leaves for a matrix on a CpuDevice: the largest power of two, at most kMaxLeaves, that divides
// n_cols into aligned leaves of at least min_leaf_cols columns; 1 if no greater one does.
int64_t LeafCount(int64_t n_cols, int64_t min_leaf_cols);

// A view of a packed matrix. The memory belongs to the weight loader and outlives every operation.
struct PackedWeight {
  WeightFormat format = WeightFormat::kF32;
  WeightLayout layout = WeightLayout::kPanels;
  const void* data = nullptr;  // bytes() bytes, aligned to 64 bytes (kPanels) or 256 (the others)
  int64_t n_rows = 0;          // output elements
  int64_t n_cols = 0;          // input elements
  int64_t n_leaves = 1;        // equal leaves that the columns are cut into

  int64_t n_panels() const { return CeilDiv(n_rows, kPanelRows); }
  int64_t padded_cols() const { return RoundUp(n_cols, kLeafAlignment); }
  int64_t leaf_cols() const { return DivExact(padded_cols(), n_leaves); }
  // Columns that one step of the inner loop takes.
  int64_t step_cols() const { return 32 / InfoOf(format).bits; }
  // kInt8: columns that share a scale: the greatest multiple of kLeafAlignment, up to
  // kMaxGroupCols, that divides a leaf evenly.
  int64_t group_cols() const;
  // Bytes of one panel in layout kPanels, group headers included.
  int64_t panel_bytes() const;
  // Bytes of the whole matrix in its layout.
  int64_t bytes() const {
    return layout == WeightLayout::kPanels ? n_panels() * panel_bytes()
                                           : n_rows * n_cols * InfoOf(format).bits / 8;
  }
};

// Leaves for a matrix on a CudaDevice: the largest power of two, at most kMaxCudaLeaves, that
// divides n_cols into leaves of at least min_leaf_cols columns with kCudaLeafAlignment; 1 if no
// greater one does.
int64_t CudaLeafCount(int64_t n_cols, int64_t min_leaf_cols);

// Writes rows [row_begin, row_begin + n_rows) of the matrix into `data`. rows: [n_rows,
// weight.n_cols], row-major, of the type that goes with the format: float for kF32 and kInt8, Bf16
// for kBf16, Half for kF16. kInt8 rounds each weight to the nearest multiple of the group's largest
// magnitude over 127; its rows must be finite. Different rows may be packed by different threads at
// the same time.
// REQUIRES: layout kPanels; `data` is weight.bytes() long and zero wherever nothing was written
// yet, which gives the padding its value.
void PackRows(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const float* rows,
              void* data);
void PackRows(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const Bf16* rows,
              void* data);
void PackRows(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const Half* rows,
              void* data);

// PackRows of rows whose type is known when the program runs: elements of the type that
// InfoOf(weight.format).rows names.
void PackRowsOfFormat(const PackedWeight& weight, int64_t row_begin, int64_t n_rows,
                      const void* rows, void* data);

// The element of the matrix at (row, col) as a float, in any layout; of kGatedRows the gate's rows
// count first, then the up projection's. For tests and tools.
// REQUIRES: weight.data is host memory.
float PackedElement(const PackedWeight& weight, int64_t row, int64_t col);

}  // namespace bora
