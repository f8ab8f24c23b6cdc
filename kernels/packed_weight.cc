#include "kernels/packed_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/bf16.h"
#include "base/check.h"

namespace bora {
namespace {

// Steps that are transposed at a time: one cache line of each row in, as many whole steps out.
constexpr int64_t kTurnSteps = 16;

// The panel of `data` that holds the row.
uint8_t* PanelOf(const PackedWeight& weight, int64_t row, void* data) {
  return static_cast<uint8_t*>(data) + row / kPanelRows * weight.panel_bytes();
}

// Transposes rows into the steps of a panel. rows: n_rows <= 32 rows of n_steps steps of 4 bytes,
// beginning row_bytes apart. They become rows [first, first + n_rows) of the panel that begins at
// `steps`.
void TurnSteps(const uint8_t* rows, int64_t row_bytes, int64_t n_rows, int64_t first,
               int64_t n_steps, uint8_t* steps) {
  uint32_t lines[kPanelRows][kTurnSteps];
  for (int64_t begin = 0; begin < n_steps; begin += kTurnSteps) {
    const int64_t n = std::min(kTurnSteps, n_steps - begin);
    for (int64_t r = 0; r < n_rows; ++r) {
      std::memcpy(lines[r], rows + r * row_bytes + begin * 4, n * 4);
    }
    for (int64_t s = 0; s < n; ++s) {
      uint32_t* to = reinterpret_cast<uint32_t*>(steps + (begin + s) * kStepBytes) + first;
      for (int64_t r = 0; r < n_rows; ++r) to[r] = lines[r][s];
    }
  }
}

// Packs rows of kF32 or kBf16, whose steps are 4 bytes of a row. The last step of a row may be
// incomplete.
void PackPlain(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const uint8_t* rows,
               void* data) {
  const int64_t element_bytes = 4 / weight.step_cols();
  const int64_t row_bytes = weight.n_cols * element_bytes;
  const int64_t n_steps = row_bytes / 4;
  for (int64_t row = row_begin; row < row_begin + n_rows;) {
    const int64_t first = row % kPanelRows;
    const int64_t n = std::min(kPanelRows - first, row_begin + n_rows - row);
    const uint8_t* from = rows + (row - row_begin) * row_bytes;
    uint8_t* const panel = PanelOf(weight, row, data);
    TurnSteps(from, row_bytes, n, first, n_steps, panel);
    // The incomplete step, if any; the rest of its 4 bytes stays zero.
    for (int64_t r = 0; r < n && n_steps * 4 < row_bytes; ++r) {
      std::memcpy(panel + n_steps * kStepBytes + (first + r) * 4,
                  from + r * row_bytes + n_steps * 4, row_bytes - n_steps * 4);
    }
    row += n;
  }
}

// Bytes from the beginning of a kF16 step to the first column of a panel's row `lane`. The row's
// second column lies kSecondHalfBytes further.
int64_t HalfOffset(int64_t lane) { return lane / 16 * 64 + lane % 16 * 2; }
constexpr int64_t kSecondHalfBytes = 32;

// Transposes n_rows <= 32 rows of n_cols halves into rows [first, first + n_rows) of a kF16 panel,
// 32 columns at a time: a cache line of each row in, 16 whole steps out.
void TurnHalves(const Half* rows, int64_t n_cols, int64_t n_rows, int64_t first, uint8_t* panel) {
  constexpr int64_t kTurnCols = 32;
  Half lines[kPanelRows][kTurnCols];
  for (int64_t begin = 0; begin < n_cols; begin += kTurnCols) {
    const int64_t n = std::min(kTurnCols, n_cols - begin);
    for (int64_t r = 0; r < n_rows; ++r) {
      std::memcpy(lines[r], rows + r * n_cols + begin, n * sizeof(Half));
    }
    for (int64_t c = 0; c < n; ++c) {
      uint8_t* const step = panel + (begin + c) / 2 * kStepBytes + c % 2 * kSecondHalfBytes;
      for (int64_t r = 0; r < n_rows; ++r) {
        std::memcpy(step + HalfOffset(first + r), &lines[r][c], sizeof(Half));
      }
    }
  }
}

// Quantises one row's group of n_cols floats: writes the bytes and, at the group's begin, the row's
// scale and offset. lane: the row's place in the panel.
void PackGroup(const float* from, int64_t n_cols, int64_t lane, uint8_t* group) {
  float max = 0;
  for (int64_t i = 0; i < n_cols; ++i) max = std::max(max, std::abs(from[i]));
  const float scale = max / 127.0f;
  // A zero or subnormal scale counts as 0 in products, so the group's bytes are zero as well.
  const bool is_zero = scale < std::numeric_limits<float>::min();
  int8_t bytes[kMaxGroupCols] = {};
  int32_t sum = 0;
  for (int64_t i = 0; i < n_cols && !is_zero; ++i) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer
    bytes[i] = static_cast<int8_t>((from[i] / scale + kRound) - kRound);
    sum += bytes[i];
  }
  for (int64_t i = 0; i < n_cols; i += 4) {
    std::memcpy(group + kGroupHeaderBytes + i / 4 * kStepBytes + lane * 4, bytes + i, 4);
  }
  const int32_t offset = -128 * sum;
  std::memcpy(group + lane * 4, &scale, 4);
  std::memcpy(group + kGroupOffsetsBegin + lane * 4, &offset, 4);
}

// Bytes of one group of a kInt8 panel: its header and the bytes of 32 rows.
int64_t GroupBytes(const PackedWeight& weight) {
  return kGroupHeaderBytes + weight.group_cols() * kPanelRows;
}

}  // namespace

int64_t LeafCount(int64_t n_cols, int64_t min_leaf_cols) {
  int64_t n_leaves = kMaxLeaves;
  while (n_leaves > 1 &&
         (n_cols % (n_leaves * kLeafAlignment) != 0 || n_cols / n_leaves < min_leaf_cols)) {
    n_leaves /= 2;
  }
  return n_leaves;
}

int64_t CudaLeafCount(int64_t n_cols, int64_t min_leaf_cols) {
  int64_t n_leaves = kMaxCudaLeaves;
  while (n_leaves > 1 &&
         (n_cols % (n_leaves * kCudaLeafAlignment) != 0 || n_cols / n_leaves < min_leaf_cols)) {
    n_leaves /= 2;
  }
  return n_leaves;
}

int64_t PackedWeight::group_cols() const {
  const int64_t leaf = leaf_cols();
  int64_t n = std::min(kMaxGroupCols, leaf);
  while (leaf % n != 0 || n % kLeafAlignment != 0) --n;
  return n;
}

int64_t PackedWeight::panel_bytes() const {
  if (format != WeightFormat::kInt8) return padded_cols() / step_cols() * kStepBytes;
  return DivExact(padded_cols(), group_cols()) * GroupBytes(*this);
}

void PackRows(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const Bf16* rows,
              void* data) {
  CHECK(weight.format == WeightFormat::kBf16) << "bf16 rows for another format";
  CHECK(weight.layout == WeightLayout::kPanels);
  CHECK(row_begin >= 0 && row_begin + n_rows <= weight.n_rows);
  PackPlain(weight, row_begin, n_rows, reinterpret_cast<const uint8_t*>(rows), data);
}

void PackRows(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const Half* rows,
              void* data) {
  CHECK(weight.format == WeightFormat::kF16) << "float16 rows for another format";
  CHECK(weight.layout == WeightLayout::kPanels);
  CHECK(row_begin >= 0 && row_begin + n_rows <= weight.n_rows);
  for (int64_t row = row_begin; row < row_begin + n_rows;) {
    const int64_t first = row % kPanelRows;
    const int64_t n = std::min(kPanelRows - first, row_begin + n_rows - row);
    TurnHalves(rows + (row - row_begin) * weight.n_cols, weight.n_cols, n, first,
               PanelOf(weight, row, data));
    row += n;
  }
}

void PackRows(const PackedWeight& weight, int64_t row_begin, int64_t n_rows, const float* rows,
              void* data) {
  CHECK(weight.format == WeightFormat::kF32 || weight.format == WeightFormat::kInt8)
      << "float rows for 16 bits";
  CHECK(weight.layout == WeightLayout::kPanels);
  CHECK(row_begin >= 0 && row_begin + n_rows <= weight.n_rows);
  if (weight.format == WeightFormat::kF32) {
    PackPlain(weight, row_begin, n_rows, reinterpret_cast<const uint8_t*>(rows), data);
    return;
  }
  const int64_t group_cols = weight.group_cols();
  for (int64_t row = row_begin; row < row_begin + n_rows; ++row) {
    uint8_t* group = PanelOf(weight, row, data);
    const float* from = rows + (row - row_begin) * weight.n_cols;
    for (int64_t col = 0; col < weight.n_cols; col += group_cols) {
      PackGroup(from + col, std::min(group_cols, weight.n_cols - col), row % kPanelRows, group);
      group += GroupBytes(weight);
    }
  }
}

void PackRowsOfFormat(const PackedWeight& weight, int64_t row_begin, int64_t n_rows,
                      const void* rows, void* data) {
  switch (InfoOf(weight.format).rows) {
    case DType::kF32:
      return PackRows(weight, row_begin, n_rows, static_cast<const float*>(rows), data);
    case DType::kBf16:
      return PackRows(weight, row_begin, n_rows, static_cast<const Bf16*>(rows), data);
    case DType::kF16:
      return PackRows(weight, row_begin, n_rows, static_cast<const Half*>(rows), data);
  }
}

float PackedElement(const PackedWeight& weight, int64_t row, int64_t col) {
  if (weight.layout != WeightLayout::kPanels) {
    const int64_t half = weight.n_rows / 2;
    if (weight.layout == WeightLayout::kGatedRows) {
      row = GatedRow(row % half) + (row < half ? 0 : kGatedGroupRows);
    }
    return ToFloat(static_cast<const Bf16*>(weight.data)[row * weight.n_cols + col]);
  }
  const uint8_t* panel = PanelOf(weight, row, const_cast<void*>(weight.data));
  const int64_t lane = row % kPanelRows;
  if (weight.format == WeightFormat::kInt8) {
    const uint8_t* group = panel + col / weight.group_cols() * GroupBytes(weight);
    const int64_t i = col % weight.group_cols();
    float scale;
    std::memcpy(&scale, group + lane * 4, 4);
    const uint8_t byte = group[kGroupHeaderBytes + i / 4 * kStepBytes + lane * 4 + i % 4];
    return static_cast<float>(static_cast<int8_t>(byte)) * scale;
  }
  if (weight.format == WeightFormat::kF16) {
    Half value;
    std::memcpy(&value,
                panel + col / 2 * kStepBytes + HalfOffset(lane) + col % 2 * kSecondHalfBytes, 2);
    return ToFloat(value);
  }
  const uint8_t* step = panel + col / weight.step_cols() * kStepBytes + lane * 4;
  if (weight.format == WeightFormat::kF32) {
    float value;
    std::memcpy(&value, step, 4);
    return value;
  }
  Bf16 value;
  std::memcpy(&value, step + col % 2 * 2, 2);
  return ToFloat(value);
}

}  // namespace bora
