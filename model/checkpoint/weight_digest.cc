#include "model/checkpoint/weight_digest.h"

#include <algorithm>
#include <numeric>

// Makes all of xxhash inline, so that no library is linked: no other file uses it.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/int_math.h"

namespace bora {
namespace {

DigestSum ToSum(const XXH128_hash_t& hash) { return {hash.high64, hash.low64}; }

// Number of consecutive tensor ranks that hold copies of the same KV heads.
int KvCopies(const DigestLayout& layout) {
  return std::max(1, layout.tp_size / static_cast<int>(layout.n_kv_heads));
}

}  // namespace

std::string DigestSum::ToHex() const { return absl::StrFormat("%016x%016x", high, low); }

absl::string_view DigestPartName(DigestPart part) {
  constexpr absl::string_view kNames[kNDigestParts] = {"embedding", "norms", "keys and values",
                                                       "head", "other"};
  return kNames[static_cast<int>(part)];
}

DigestPart DigestPartOf(TensorKind kind) {
  switch (kind) {
    case TensorKind::kTokEmbeddings:
      return DigestPart::kEmbedding;
    case TensorKind::kAttentionNorm:
    case TensorKind::kFfnNorm:
    case TensorKind::kNorm:
      return DigestPart::kNorms;
    case TensorKind::kWk:
    case TensorKind::kWv:
      return DigestPart::kKeyValue;
    case TensorKind::kOutput:
      return DigestPart::kHead;
    default:
      return DigestPart::kOther;
  }
}

// Tensor parallelism cuts columns of wo between heads. It cuts w2 into tp_size equal parts, where
// tp_size divides both n_heads and hidden_dim; so every cut is a multiple of hidden_dim /
// gcd(n_heads, hidden_dim).
int64_t DigestUnitCols(const ModelConfig& config, TensorId id) {
  if (id.kind == TensorKind::kWo) return config.head_dim;
  if (id.kind == TensorKind::kW2) {
    return DivExact(config.hidden_dim, std::gcd(config.n_heads, config.hidden_dim));
  }
  return ShapeOf(config, id).n_cols;
}

void AddRowDigest(const StoredRow& row, absl::Span<const uint8_t> bytes, DigestSum* sum) {
  const int64_t unit_bytes = row.unit_cols * row.element_bytes;
  CHECK_EQ(static_cast<int64_t>(bytes.size()), row.n_cols * row.element_bytes);
  const int64_t first_unit = DivExact(row.col_begin, row.unit_cols);
  const int64_t n_units = DivExact(row.n_cols, row.unit_cols);
  for (int64_t i = 0; i < n_units; ++i) {
    const XXH128_hash_t content =
        XXH3_128bits(bytes.data() + i * unit_bytes, static_cast<size_t>(unit_bytes));
    const uint64_t place[] = {content.low64,
                              content.high64,
                              static_cast<uint64_t>(row.id.kind),
                              static_cast<uint64_t>(row.id.layer),
                              static_cast<uint64_t>(row.row),
                              static_cast<uint64_t>(first_unit + i)};
    *sum += ToSum(XXH3_128bits(place, sizeof(place)));
  }
}

std::optional<DigestMismatch> FindDigestMismatch(absl::Span<const WeightDigests> ranks,
                                                 const DigestLayout& layout) {
  const int n_ranks = static_cast<int>(ranks.size());
  CHECK_EQ(n_ranks % layout.tp_size, 0);
  const auto differ = [&ranks](int a, int b, DigestPart part) {
    return ranks[a][part] != ranks[b][part];
  };
  for (int rank = 0; rank < n_ranks; ++rank) {
    const int tp_rank = rank % layout.tp_size;
    const int first = rank - tp_rank;  // tensor rank 0 of the same stage
    // The first rank with the same KV heads.
    const int first_copy = rank - tp_rank % KvCopies(layout);
    if (differ(rank, first, DigestPart::kEmbedding)) {
      return DigestMismatch{rank, first, DigestPart::kEmbedding};
    }
    if (differ(rank, first, DigestPart::kNorms)) {
      return DigestMismatch{rank, first, DigestPart::kNorms};
    }
    if (differ(rank, first_copy, DigestPart::kKeyValue)) {
      return DigestMismatch{rank, first_copy, DigestPart::kKeyValue};
    }
  }
  if (!layout.tied_head) return std::nullopt;
  // The head's slices add up to the whole table, which rank 0 has read as embeddings.
  DigestSum head;
  for (int rank = n_ranks - layout.tp_size; rank < n_ranks; ++rank) {
    head += ranks[rank][DigestPart::kHead];
  }
  if (head == ranks[0][DigestPart::kEmbedding]) return std::nullopt;
  return DigestMismatch{0, n_ranks - 1, DigestPart::kEmbedding};
}

DigestSum ModelDigest(absl::Span<const WeightDigests> ranks, const DigestLayout& layout) {
  DigestSum sum;
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
    const int tp_rank = rank % layout.tp_size;
    const WeightDigests& digests = ranks[rank];
    if (tp_rank == 0) {
      sum += digests[DigestPart::kEmbedding];
      sum += digests[DigestPart::kNorms];
    }
    if (tp_rank % KvCopies(layout) == 0) sum += digests[DigestPart::kKeyValue];
    if (!layout.tied_head) sum += digests[DigestPart::kHead];
    sum += digests[DigestPart::kOther];
  }
  return sum;
}

std::string WeightsDigestText(absl::string_view fingerprint, const DigestSum& bytes) {
  const std::string text = absl::StrCat(fingerprint, " ", bytes.ToHex());
  return ToSum(XXH3_128bits(text.data(), text.size())).ToHex();
}

}  // namespace bora
