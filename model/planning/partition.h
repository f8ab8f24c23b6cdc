// How a model is divided over tensor-parallel ranks and pipeline stages.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/config.h"

namespace bora {

// Layers [begin, end).
struct LayerRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t n_layers() const { return end - begin; }
  bool operator==(const LayerRange&) const = default;
};

struct Partition {
  int tp_size = 1;
  int pp_size = 1;
  std::vector<LayerRange> stages;  // [pp_size], consecutive, covering every layer
};

// Divides the model over tp_size * pp_size ranks. tp_size must divide n_heads and hidden_dim, if it
// is 2, 4 or 8 into multiples of 4 columns, and one of tp_size and n_kv_heads the other: with more
// ranks than KV heads, several hold copies of one. Every stage has a layer. With `layers_per_stage`
// [pp_size] the split is that one; empty means the one whose slowest stage is fastest, counting the
// LM head on the last stage by its share of weights and breaking ties against the first stage, for
// its embedding. INVALID_ARGUMENT names the numbers that do not fit.
absl::StatusOr<Partition> MakePartition(const ModelConfig& config, int tp_size, int pp_size,
                                        absl::Span<const int64_t> layers_per_stage = {});

// What one rank holds.
struct RankShape {
  int stage = 0;
  int tp_rank = 0;
  int tp_size = 1;
  LayerRange layers;
  int64_t local_n_heads = 0;  // heads [tp_rank * local_n_heads, ...)
  // KV heads [kv_head_begin, kv_head_begin + local_n_kv_heads): those that the rank's heads attend
  // to. Where tp_size exceeds n_kv_heads it is one, and tp_size / n_kv_heads ranks in a row have
  // the same.
  int64_t kv_head_begin = 0;
  int64_t local_n_kv_heads = 0;
  int64_t local_hidden_dim = 0;  // FFN columns [tp_rank * local_hidden_dim, ...)
  // Rows of the embedding and the LM head: [vocab_begin, vocab_end), padded to local_vocab_size,
  // which is the same on every rank. The last ranks may have fewer rows, even none.
  int64_t local_vocab_size = 0;
  int64_t vocab_begin = 0;
  int64_t vocab_end = 0;
  bool has_embedding = false;  // first stage
  bool has_head = false;       // last stage: final norm and LM head
};

// The share of rank (stage, tp_rank); both must be inside the partition (CHECK).
RankShape ShapeOfRank(const ModelConfig& config, const Partition& partition, int stage,
                      int tp_rank);

}  // namespace bora
