// A digest of the bytes of all weights. Each rank computes its part while it reads its slices; the
// parts add up to the same digest however the model is divided.
//
// Every tensor consists of units that no division cuts: a row or, if tensor parallelism divides the
// columns, a piece of a row (DigestUnitCols). The hash of a unit is XXH3 over (XXH3 of its stored
// bytes, tensor, row, piece). The digest of a set of units is the sum of their hashes, so digests
// of disjoint slices add up to the digest of the whole. Digests of two copies of a slice are equal
// if the copies are equal; different copies have equal digests with a probability of about 2^-128.
// This guards against files that differ by mistake, not against deliberate collisions.
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

// A sum of unit hashes: 128 bits as two numbers, each modulo 2^64. A plain value.
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

// Parts of the weights that a rank reads, grouped by the ranks that read the same bytes.
enum class DigestPart : uint8_t {
  kEmbedding,  // all tensor ranks of the first stage; with a tied head also all head ranks together
  kNorms,      // all tensor ranks of a stage
  kKeyValue,   // the tensor ranks with the same KV heads
  kHead,       // one rank only
  kOther,      // one rank only
};
inline constexpr int kNDigestParts = 5;

// The name for messages: "embedding", "norms" and so on.
absl::string_view DigestPartName(DigestPart part);
// The part that tensors of this kind belong to.
DigestPart DigestPartOf(TensorKind kind);

// The digests of everything that one rank has read. All zero for dummy weights. A plain value.
struct WeightDigests {
  std::array<DigestSum, kNDigestParts> parts;

  DigestSum& operator[](DigestPart part) { return parts[static_cast<int>(part)]; }
  const DigestSum& operator[](DigestPart part) const { return parts[static_cast<int>(part)]; }
  bool operator==(const WeightDigests&) const = default;
};

// Columns of a unit of the tensor; divides the tensor's columns. Every division that MakePartition
// accepts cuts the tensor between units.
int64_t DigestUnitCols(const ModelConfig& config, TensorId id);

// A piece of one row, as stored in the file.
struct StoredRow {
  TensorId id;
  int64_t row = 0;
  int64_t col_begin = 0;  // a multiple of unit_cols
  int64_t n_cols = 0;     // a multiple of unit_cols
  int64_t unit_cols = 0;  // DigestUnitCols of the tensor
  int64_t element_bytes = 0;
};

// Adds the hashes of the piece's units to *sum. `bytes` [n_cols * element_bytes].
void AddRowDigest(const StoredRow& row, absl::Span<const uint8_t> bytes, DigestSum* sum);

// The facts about a group that decide which of its ranks read the same bytes.
struct DigestLayout {
  int tp_size = 1;
  int64_t n_kv_heads = 1;
  bool tied_head = false;
};

// Two ranks that should have read the same bytes and have not. With a tied head, `other_rank` may
// be one of several ranks whose slices of the head together should equal the table that `rank` has
// read.
struct DigestMismatch {
  int rank = 0;
  int other_rank = 0;
  DigestPart part = DigestPart::kOther;
};

// The first pair of ranks whose copies differ, or nullopt if all copies agree. `ranks` [pp_size *
// tp_size], stage by stage. REQUIRES: tp_size divides the number of ranks (CHECK).
std::optional<DigestMismatch> FindDigestMismatch(absl::Span<const WeightDigests> ranks,
                                                 const DigestLayout& layout);

// The digest of the model that the ranks hold together, each tensor counted once; equal for every
// layout of one checkpoint. REQUIRES: FindDigestMismatch found none.
DigestSum ModelDigest(absl::Span<const WeightDigests> ranks, const DigestLayout& layout);

// The identity of a model's weights for people: 32 hexadecimal digits, computed from the
// checkpoint's fingerprint and the ModelDigest of its bytes.
std::string WeightsDigestText(absl::string_view fingerprint, const DigestSum& bytes);

}  // namespace bora
