// A digest of the bytes of all weights that ranks make from their own slices while they read them,
// and that is the same however the model is divided.
//
// Every tensor is divided into units that no division cuts: a row, or, where tensor parallelism
// divides the columns, pieces of a row (DigestUnitCols). A unit's hash is XXH3 of its bytes as they
// are stored, then of that and of the unit's place; the digest of any set of units is the sum of
// their hashes. So the digests of disjoint slices add up to that of the whole, and the digests of
// two copies of a slice are equal exactly when the copies are, but for accidents of one in 2^128.
// It guards against files that differ by mistake, not against someone who makes them collide.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/checkpoint/tensor_id.h"
#include "model/config.h"

namespace bora {

// A sum of unit hashes: 128 bits as two numbers, each modulo 2^64.
struct DigestSum {
  uint64_t high = 0;
  uint64_t low = 0;

  DigestSum& operator+=(const DigestSum& other) {
    high += other.high;
    low += other.low;
    return *this;
  }
  bool operator==(const DigestSum&) const = default;
  // 32 lower-case hexadecimal digits.
  std::string ToHex() const;
};

// What a rank reads, by which other ranks read the same.
enum class DigestPart : uint8_t {
  kEmbedding,  // every tensor rank of the first stage; the head's ranks together where it is tied
  kNorms,      // every tensor rank of a stage
  kKeyValue,   // the ranks that attend to the same KV heads
  kHead,       // nobody else
  kOther,      // nobody else
};
inline constexpr int kNDigestParts = 5;

// "embedding", "norms", ...
absl::string_view DigestPartName(DigestPart part);
DigestPart DigestPartOf(TensorKind kind);

// The digests of what one rank has read; all zero for weights that are made up. A plain value.
struct WeightDigests {
  std::array<DigestSum, kNDigestParts> parts;

  DigestSum& operator[](DigestPart part) { return parts[static_cast<int>(part)]; }
  const DigestSum& operator[](DigestPart part) const { return parts[static_cast<int>(part)]; }
  bool operator==(const WeightDigests&) const = default;
};

// Columns of a unit of the tensor; a unit of the last columns is never shorter. All divisions that
// MakePartition accepts cut the tensor between units.
int64_t DigestUnitCols(const ModelConfig& config, TensorId id);

// n_cols columns from col_begin on of one row, as they are stored.
struct StoredRow {
  TensorId id;
  int64_t row = 0;
  int64_t col_begin = 0;  // a multiple of unit_cols, as is n_cols
  int64_t n_cols = 0;
  int64_t unit_cols = 0;  // DigestUnitCols
  int64_t element_bytes = 0;
};

// Adds the hashes of the row's units to *sum. `bytes` has n_cols * element_bytes.
void AddRowDigest(const StoredRow& row, absl::Span<const uint8_t> bytes, DigestSum* sum);

// How a model is divided, as far as it decides which ranks read the same.
struct DigestLayout {
  int tp_size = 1;
  int64_t n_kv_heads = 1;
  bool tied_head = false;
};

// Two ranks that should have read the same and have not. With a tied head, `other_rank` may be one
// of several whose slices add up to what `rank` has read whole.
struct DigestMismatch {
  int rank = 0;
  int other_rank = 0;
  DigestPart part = DigestPart::kOther;
};

// The first mismatch among the ranks of a group, [pp_size * tp_size], those of the first stage
// first; nullopt when all copies agree.
std::optional<DigestMismatch> FindDigestMismatch(absl::Span<const WeightDigests> ranks,
                                                 const DigestLayout& layout);

// The digest of the model that the ranks hold together, each tensor counted once: the same for
// every layout. The copies agree.
DigestSum ModelDigest(absl::Span<const WeightDigests> ranks, const DigestLayout& layout);

// What identifies the weights of a model to people: 32 hexadecimal digits from the checkpoint's
// fingerprint and the ModelDigest of its bytes.
std::string WeightsDigestText(absl::string_view fingerprint, const DigestSum& bytes);

}  // namespace bora
