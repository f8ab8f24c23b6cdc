#include "model/weights_source.h"

#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/rotary_layout.h"

static_assert(std::endian::native == std::endian::little, "safetensors bytes are read in place");

namespace bora {
namespace {

// One element at an address of any alignment, widened exactly.
float LoadF32(const uint8_t* src) {
  float value;
  std::memcpy(&value, src, sizeof(value));
  return value;
}

float LoadF16(const uint8_t* src) {
  uint16_t bits;
  std::memcpy(&bits, src, sizeof(bits));
  return HalfToFloat(bits);
}

float LoadBf16(const uint8_t* src) {
  Bf16 value;
  std::memcpy(&value, src, sizeof(value));
  return ToFloat(value);
}

void Store(float value, float& dst) { dst = value; }
void Store(float value, Bf16& dst) { dst = ToBf16(value); }

template <auto kLoad, typename T>
void ConvertRow(const uint8_t* src, int64_t src_bytes, absl::Span<T> dst) {
  for (size_t i = 0; i < dst.size(); ++i) Store(kLoad(src + i * src_bytes), dst[i]);
}

template <typename T>
void ConvertRow(FileDType dtype, const uint8_t* src, absl::Span<T> dst) {
  switch (dtype) {
    case FileDType::kF32:
      if constexpr (std::is_same_v<T, float>) {
        std::memcpy(dst.data(), src, dst.size() * sizeof(T));
      } else {
        ConvertRow<LoadF32>(src, 4, dst);
      }
      return;
    case FileDType::kF16:
      ConvertRow<LoadF16>(src, 2, dst);
      return;
    case FileDType::kBf16:
      if constexpr (std::is_same_v<T, Bf16>) {
        std::memcpy(dst.data(), src, dst.size() * sizeof(T));
      } else {
        ConvertRow<LoadBf16>(src, 2, dst);
      }
      return;
    default:
      CHECK(false) << "dtype " << FileDTypeName(dtype) << " was accepted at open";
  }
}

// An exponent of all ones is infinity or NaN.
bool IsFinite(float value) { return (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0x7f800000u; }
bool IsFinite(Bf16 value) { return (value.bits & 0x7f80u) != 0x7f80u; }

// Index of the first element that is not finite, or dst.size(). The common case is one branch-free
// pass, which the compiler vectorises.
template <typename T>
size_t FirstNotFinite(absl::Span<const T> row) {
  bool all_finite = true;
  for (const T value : row) all_finite &= IsFinite(value);
  if (all_finite) return row.size();
  size_t i = 0;
  while (IsFinite(row[i])) ++i;
  return i;
}

}  // namespace

CheckpointWeights::CheckpointWeights(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}

absl::Status CheckpointWeights::ReadSlice(TensorId id, const TensorSlice& slice,
                                          absl::Span<float> dst) const {
  return Read(id, slice, dst);
}

absl::Status CheckpointWeights::ReadSlice(TensorId id, const TensorSlice& slice,
                                          absl::Span<Bf16> dst) const {
  return Read(id, slice, dst);
}

template <typename T>
absl::Status CheckpointWeights::Read(TensorId id, const TensorSlice& slice,
                                     absl::Span<T> dst) const {
  const TensorShape shape = ShapeOf(config(), id);
  CheckSlice(id, shape, slice, dst.size());
  if (dst.empty()) return absl::OkStatus();  // without a destination there is no address to copy to
  const StoredTensor stored = checkpoint_.Find(id);
  const int64_t element_bytes = FileDTypeBytes(stored.dtype);
  for (int64_t row = slice.row_begin; row < slice.row_end; ++row) {
    const int64_t stored_row =
        stored.interleaved_rotary ? InterleavedRow(row, config().head_dim) : row;
    const int64_t offset = (stored_row * shape.n_cols + slice.col_begin) * element_bytes;
    const absl::Span<T> dst_row =
        dst.subspan((row - slice.row_begin) * slice.n_cols(), slice.n_cols());
    ConvertRow(stored.dtype, stored.bytes.data() + offset, dst_row);
    const size_t bad = FirstNotFinite<T>(dst_row);
    if (bad != dst_row.size()) {
      float value = 0;
      ConvertRow(stored.dtype, stored.bytes.data() + offset + bad * element_bytes,
                 absl::MakeSpan(&value, 1));
      return absl::DataLossError(absl::StrCat("tensor ", TensorName(id), ": element [", row, ", ",
                                              slice.col_begin + static_cast<int64_t>(bad), "] is ",
                                              value,
                                              IsFinite(value) ? ", too large for bf16" : ""));
    }
  }
  return absl::OkStatus();
}

void CheckSlice(TensorId id, const TensorShape& shape, const TensorSlice& slice, size_t dst_size) {
  CHECK(slice.row_begin >= 0 && slice.row_begin <= slice.row_end && slice.row_end <= shape.n_rows)
      << TensorName(id) << " rows " << slice.row_begin << ".." << slice.row_end << " of "
      << shape.n_rows;
  CHECK(slice.col_begin >= 0 && slice.col_begin <= slice.col_end && slice.col_end <= shape.n_cols)
      << TensorName(id) << " columns " << slice.col_begin << ".." << slice.col_end << " of "
      << shape.n_cols;
  CHECK_EQ(static_cast<int64_t>(dst_size), slice.n_elements());
}

}  // namespace bora
