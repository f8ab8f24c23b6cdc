// Weight matrices as the inner loops read them: packed once at load, read front to back by every
// product.
//
// Output rows are grouped in panels of 32. Inside a panel the columns come in ascending order, and
// each step of the inner loop (1, 2 or 4 neighbouring columns of all 32 rows: 128 bytes) is one
// piece of memory. The layout is the same for every instruction set. A step of kF16 is two columns:
// of 16 rows the first column, then the second, then the same of the other 16 rows, so that the
// conversion to float takes neighbouring halves.
//
// Columns are cut into `n_leaves` equal leaves. A product sums each leaf in ascending order and
// adds the leaves up as a balanced binary tree, so that tensor-parallel ranks that hold whole
// subtrees and add up in the same tree get the bits of a single rank.
//
// For a CudaDevice the rows lie one after another instead (WeightLayout::kRows): its products fetch
// tiles of a matrix straight into shared memory.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "base/int_math.h"
#include "base/number_formats.h"
#include "kernels/device_views.h"

namespace bora {

// kPanels: as above, for a CpuDevice. kRows: [n_rows, n_cols], for a CudaDevice, bf16 only.
// kGatedRows: the same with the rows of two stacked matrices of equal height, the gate's and the
// up projection's, taking turns in groups of 8, so that MatMulSiluMul finds the two rows of an
// output element in one tile: row r of the gate is at GatedRow(r), of the up projection 8 further.
enum class WeightLayout { kPanels, kRows, kGatedRows };

inline constexpr int64_t kGatedGroupRows = 8;
constexpr int64_t GatedRow(int64_t row) {
  return row / kGatedGroupRows * 2 * kGatedGroupRows + row % kGatedGroupRows;
}

// What a CudaDevice's products ask of a matrix: columns, and those of a leaf, are a multiple of
// this (an instruction multiplies 16 at once); and at most so many leaves, whose sums fit on chip.
inline constexpr int64_t kCudaLeafAlignment = 16;
inline constexpr int64_t kMaxCudaLeaves = 4;

// Rows of a panel.
inline constexpr int64_t kPanelRows = 32;
// Bytes of one step of the inner loop for all rows of a panel, whatever the format.
inline constexpr int64_t kStepBytes = kPanelRows * 4;
// kInt8: each group of a panel begins with [32] float scales and [32] int32 offsets, -128 times the
// sum of the row's weights in the group: the inner loop's input bytes are biased by 128.
inline constexpr int64_t kGroupOffsetsBegin = kPanelRows * 4;
inline constexpr int64_t kGroupHeaderBytes = kPanelRows * 8;
// Leaves of a matrix whose columns tensor parallelism may cut: it can do so 8 ways.
inline constexpr int64_t kMaxLeaves = 8;
// Columns of a leaf are a multiple of this unless there is one leaf, which is padded with zeros.
inline constexpr int64_t kLeafAlignment = 4;
// Most columns that share a scale: 8 bytes of scale and offset for 128 weights are 6 %.
inline constexpr int64_t kMaxGroupCols = 128;

// The largest power of two, at most kMaxLeaves, that divides n_cols into aligned leaves of at least
// min_leaf_cols columns; 1 if there is none.
int64_t LeafCount(int64_t n_cols, int64_t min_leaf_cols);

// A packed matrix. The memory belongs to the weight loader and outlives every operation.
struct PackedWeight {
  WeightFormat format = WeightFormat::kF32;
  WeightLayout layout = WeightLayout::kPanels;
  const void* data = nullptr;  // bytes(), 64-byte aligned (kPanels) or 256 (others)
  int64_t n_rows = 0;          // output elements
  int64_t n_cols = 0;          // input elements
  int64_t n_leaves = 1;

  int64_t n_panels() const { return CeilDiv(n_rows, kPanelRows); }
  int64_t padded_cols() const { return RoundUp(n_cols, kLeafAlignment); }
  int64_t leaf_cols() const { return DivExact(padded_cols(), n_leaves); }
  // Columns that one step of the inner loop takes.
  int64_t step_cols() const { return 32 / InfoOf(format).bits; }
  // kInt8: columns that share a scale, the most that divide a leaf evenly.
  int64_t group_cols() const;
  int64_t panel_bytes() const;
  int64_t bytes() const {
    return layout == WeightLayout::kPanels ? n_panels() * panel_bytes()
                                           : n_rows * n_cols * InfoOf(format).bits / 8;
  }
};

// Of a matrix for a CudaDevice: the largest power of two, at most kMaxCudaLeaves, that divides
// n_cols into aligned leaves of at least min_leaf_cols columns; 1 if there is none.
int64_t CudaLeafCount(int64_t n_cols, int64_t min_leaf_cols);

// Writes rows [row_begin, row_begin + n_rows) of the matrix into `data`, which is weight.bytes()
// long and zero where nothing was written yet. rows: [n_rows, weight.n_cols] row-major, of the type
// that goes with the format (float for kF32 and kInt8). Different rows may be packed by different
// threads at the same time. kInt8 rounds to the nearest multiple of the group's largest magnitude
// over 127; the rows must be finite.
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

// The element of the matrix at (row, col), in float; of kGatedRows the gate's rows come first. For
// tests and tools: a weight in device memory cannot be read like this.
float PackedElement(const PackedWeight& weight, int64_t row, int64_t col);

}  // namespace bora
