#include "model/checkpoint/weights_source.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/checkpoint/rotary_layout.h"

static_assert(std::endian::native == std::endian::little, "safetensors bytes are read in place");

namespace bora {
namespace {

// Rows that are consecutive in the file are read together, up to this many bytes, so that they are
// still in the L2 cache when they are checked and converted.
constexpr int64_t kRunBytes = int64_t{1} << 20;

// Widen converts a stored element to float, exactly. Narrow rounds a float to the destination's
// type.
float Widen(float value) { return value; }
float Widen(Bf16 value) { return ToFloat(value); }

// HalfToFloat without a branch, so that the compiler vectorises it. Subnormal halves are converted
// as integers, so the result is right even where subnormal floats count as zero
// (base/host/flush_subnormals.h).
float Widen(Half half) {
  const uint32_t magnitude = half.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  const uint32_t special = 0u - static_cast<uint32_t>(magnitude >= 0x7c00u);  // all ones or zero
  // 112 = 127 - 15 is the difference of the exponent biases; `special` sets the exponent of
  // infinity and NaN.
  const uint32_t normal = ((magnitude << 13) + (112u << 23)) | (special & 0x7f800000u);
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t is_subnormal = 0u - static_cast<uint32_t>(magnitude < 0x0400u);
  return std::bit_cast<float>(sign | (subnormal & is_subnormal) | (normal & ~is_subnormal));
}

void Narrow(float value, float& dst) { dst = value; }
// ToBf16 without its branch: NaN becomes infinity, which the caller refuses just the same.
void Narrow(float value, Bf16& dst) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_finite = (bits & 0x7f800000u) != 0x7f800000u;
  dst.bits = static_cast<uint16_t>(is_finite ? rounded : 0x7f80u);
}

void Narrow(float value, Half& dst) { dst = ToHalf(value); }

// Converts dst.size() elements of type Stored, which may be at any alignment, to `dst`.
template <typename Stored, typename T>
void Convert(const uint8_t* src, absl::Span<T> dst) {
  if constexpr (std::is_same_v<Stored, T>) {
    std::memcpy(dst.data(), src, dst.size() * sizeof(T));
  } else {
    for (size_t i = 0; i < dst.size(); ++i) {
      Stored value;
      std::memcpy(&value, src + i * sizeof(Stored), sizeof(Stored));
      Narrow(Widen(value), dst[i]);
    }
  }
}

template <typename T>
void Convert(FileDType dtype, const uint8_t* src, absl::Span<T> dst) {
  switch (dtype) {
    case FileDType::kF32:
      return Convert<float>(src, dst);
    case FileDType::kF16:
      return Convert<Half>(src, dst);
    case FileDType::kBf16:
      return Convert<Bf16>(src, dst);
    default:
      CHECK(false) << "dtype " << FileDTypeName(dtype) << " was accepted at open";
  }
}

// An element type: how it is stored, its name in messages, and masks of its bits: the whole
// exponent, the exponent's lowest bit, the sign.
template <typename T>
struct FormatOf;
template <>
struct FormatOf<float> {
  static constexpr FileDType kDType = FileDType::kF32;
  static constexpr const char* kName = "float32";
  static constexpr uint32_t kExponent = 0x7f800000u, kOne = 0x00800000u, kSign = 0x80000000u;
};
template <>
struct FormatOf<Bf16> {
  static constexpr FileDType kDType = FileDType::kBf16;
  static constexpr const char* kName = "bf16";
  static constexpr uint16_t kExponent = 0x7f80u, kOne = 0x0080u, kSign = 0x8000u;
};
template <>
struct FormatOf<Half> {
  static constexpr FileDType kDType = FileDType::kF16;
  static constexpr const char* kName = "float16";
  static constexpr uint16_t kExponent = 0x7c00u, kOne = 0x0400u, kSign = 0x8000u;
};

uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }
uint16_t BitsOf(Bf16 value) { return value.bits; }
uint16_t BitsOf(Half value) { return value.bits; }

// Whether all n elements are finite. One pass without branches, which the compiler vectorises: an
// exponent of all ones means infinity or NaN, and adding one to it carries into the sign bit.
template <typename T>
bool AllFinite(const T* elements, size_t n) {
  using Bits = decltype(BitsOf(T()));
  using Format = FormatOf<T>;
  Bits carries = 0;
  for (size_t i = 0; i < n; ++i) {
    const Bits sum = static_cast<Bits>((BitsOf(elements[i]) & Format::kExponent) + Format::kOne);
    carries = static_cast<Bits>(carries | sum);
  }
  return (carries & Format::kSign) == 0;
}

// Index of the first element that is not finite; elements.size() if all are finite.
template <typename T>
size_t FirstNotFinite(absl::Span<const T> elements) {
  if (AllFinite(elements.data(), elements.size())) return elements.size();
  size_t i = 0;
  while (AllFinite(&elements[i], 1)) ++i;
  return i;
}

}  // namespace

CheckpointWeights::CheckpointWeights(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}

absl::Status CheckpointWeights::Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                                     DigestSum* digest) const {
  return std::visit([&](const auto& elements) { return ReadAs(id, slice, elements, digest); }, dst);
}

template <typename T>
absl::Status CheckpointWeights::ReadAs(TensorId id, const TensorSlice& slice, absl::Span<T> dst,
                                       DigestSum* digest) const {
  const TensorShape shape = ShapeOf(config(), id);
  CheckSlice(id, shape, slice, dst.size());
  if (dst.empty()) return absl::OkStatus();  // an empty span has no address to copy to
  const StoredTensor stored = checkpoint_.Find(id);
  const int64_t element_bytes = FileDTypeBytes(stored.dtype);
  const int64_t span_bytes = slice.n_cols() * element_bytes;
  // Neighbouring rows of the result are no neighbours in an interleaved file, so each is read
  // alone.
  const bool rows_follow = slice.n_cols() == shape.n_cols && !stored.interleaved_rotary;
  const int64_t run_rows = rows_follow ? std::max<int64_t>(kRunBytes / span_bytes, 1) : 1;
  const bool is_copy = stored.dtype == FormatOf<T>::kDType;
  // The digest of a tied head names the table, whose bytes are the stored ones.
  const bool is_tied_head = id.kind == TensorKind::kOutput && config().tie_word_embeddings;
  const TensorId stored_id = is_tied_head ? TensorId{TensorKind::kTokEmbeddings} : id;
  StoredRow unit = {.id = stored_id,
                    .col_begin = slice.col_begin,
                    .n_cols = slice.n_cols(),
                    .unit_cols = DigestUnitCols(config(), stored_id),
                    .element_bytes = element_bytes};
  // Elements of the destination's own type are read straight into it; others pass through
  // `staging`.
  std::unique_ptr<uint8_t[]> staging;
  if (!is_copy) {
    const int64_t n_rows = std::min(run_rows, slice.n_rows());
    staging = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(n_rows * span_bytes));
  }
  for (int64_t row = slice.row_begin; row < slice.row_end; row += run_rows) {
    const int64_t n_rows = std::min(run_rows, slice.row_end - row);
    const int64_t stored_row =
        stored.interleaved_rotary ? InterleavedRow(row, config().head_dim) : row;
    const absl::Span<T> out =
        dst.subspan((row - slice.row_begin) * slice.n_cols(), n_rows * slice.n_cols());
    uint8_t* const raw = is_copy ? reinterpret_cast<uint8_t*>(out.data()) : staging.get();
    RETURN_IF_ERROR(stored.file->ReadAt(
        *stored.info, (stored_row * shape.n_cols + slice.col_begin) * element_bytes,
        absl::MakeSpan(raw, n_rows * span_bytes)));
    if (digest != nullptr) {
      // The bytes just read are still in the cache.
      for (int64_t i = 0; i < n_rows; ++i) {
        unit.row = stored_row + i;
        AddRowDigest(unit, absl::MakeConstSpan(raw + i * span_bytes, span_bytes), digest);
      }
    }
    if (!is_copy) Convert(stored.dtype, raw, out);
    if (const size_t bad = FirstNotFinite<T>(out); bad != out.size()) {
      // Convert the element again, to float, for the message: only here is its value needed.
      float value = 0;
      Convert(stored.dtype, raw + bad * element_bytes, absl::MakeSpan(&value, 1));
      const auto bad_idx = static_cast<int64_t>(bad);
      return absl::DataLossError(absl::StrCat(
          "tensor ", TensorName(id), ": element [", row + bad_idx / slice.n_cols(), ", ",
          slice.col_begin + bad_idx % slice.n_cols(), "] is ", value,
          std::isfinite(value) ? absl::StrCat(", too large for ", FormatOf<T>::kName) : ""));
    }
  }
  return absl::OkStatus();
}

int64_t CheckpointWeights::StoragePosition(TensorId id, const TensorSlice& slice) const {
  const StoredTensor stored = checkpoint_.Find(id);
  const TensorShape shape = ShapeOf(config(), id);
  return stored.position +
         (slice.row_begin * shape.n_cols + slice.col_begin) * FileDTypeBytes(stored.dtype);
}

// Advises whole rows even for a slice of the columns: the gaps are no larger than the units in
// which disks read, and on one host the other tensor ranks need the rest of the rows.
void CheckpointWeights::WillRead(TensorId id, const TensorSlice& slice) const {
  const StoredTensor stored = checkpoint_.Find(id);
  const TensorShape shape = ShapeOf(config(), id);
  CheckSlice(id, shape, slice, slice.n_elements());
  const int64_t row_bytes = shape.n_cols * FileDTypeBytes(stored.dtype);
  stored.file->WillRead(*stored.info, slice.row_begin * row_bytes, slice.n_rows() * row_bytes);
}

// Drops nothing if the slice has only some of the columns: other tensor ranks need the rest of the
// rows.
void CheckpointWeights::HaveRead(TensorId id, const TensorSlice& slice) const {
  const StoredTensor stored = checkpoint_.Find(id);
  const TensorShape shape = ShapeOf(config(), id);
  if (slice.n_cols() != shape.n_cols) return;
  const int64_t row_bytes = shape.n_cols * FileDTypeBytes(stored.dtype);
  stored.file->HaveRead(*stored.info, slice.row_begin * row_bytes, slice.n_rows() * row_bytes);
}

ElementSpan ElementsAt(DType dtype, void* data, int64_t n_elements) {
  const auto n = static_cast<size_t>(n_elements);
  switch (dtype) {
    case DType::kF32:
      return absl::MakeSpan(static_cast<float*>(data), n);
    case DType::kBf16:
      return absl::MakeSpan(static_cast<Bf16*>(data), n);
    case DType::kF16:
      return absl::MakeSpan(static_cast<Half*>(data), n);
  }
  CHECK(false) << "dtype " << static_cast<int>(dtype);
  return {};
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
