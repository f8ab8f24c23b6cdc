// The division of a model over tensor-parallel ranks and pipeline stages.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/config.h"

namespace bora {

// The layers [begin, end) of a stage, numbered from 0 in the whole model. A plain value.
struct LayerRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t n_layers() const { return end - begin; }
  bool operator==(const LayerRange&) const = default;
};

// A valid division of a model, as MakePartition returns it. A plain value.
struct Partition {
  int tp_size = 1;                 // tensor ranks of each stage
  int pp_size = 1;                 // pipeline stages
  std::vector<LayerRange> stages;  // [pp_size], consecutive, together all layers
};

// Divides the model over tp_size * pp_size ranks. `layers_per_stage` [pp_size] gives the layers of
// each stage; if it is empty, the stages are balanced: the slowest stage becomes as fast as
// possible, where the LM head counts on the last stage in proportion to its weights. Of two
// equally loaded stages the first stage gets the layer last, since it also has the embedding.
// INVALID_ARGUMENT, with the numbers, unless:
//   - tp_size divides n_heads and hidden_dim;
//   - tp_size divides n_kv_heads, or n_kv_heads divides tp_size (then several ranks hold copies of
//     one KV head);
//   - for a tp_size of 2, 4 or 8, each rank's columns of wo and w2 are a multiple of 4;
//   - every stage has at least one layer, and layers_per_stage adds up to n_layers.
absl::StatusOr<Partition> MakePartition(const ModelConfig& config, int tp_size, int pp_size,
                                        absl::Span<const int64_t> layers_per_stage = {});

// The share of the model that one rank holds. A plain value.
struct RankShape {
  int stage = 0;      // [0, pp_size)
  int tp_rank = 0;    // [0, tp_size)
  int tp_size = 1;    // tensor ranks of each stage
  LayerRange layers;  // of the stage
  // Query heads [tp_rank * local_n_heads, (tp_rank + 1) * local_n_heads).
  int64_t local_n_heads = 0;
  // KV heads [kv_head_begin, kv_head_begin + local_n_kv_heads), which the rank's query heads attend
  // to. If tp_size > n_kv_heads, each rank has one KV head, and tp_size / n_kv_heads consecutive
  // ranks have the same one.
  int64_t kv_head_begin = 0;
  int64_t local_n_kv_heads = 0;
  // FFN columns [tp_rank * local_hidden_dim, (tp_rank + 1) * local_hidden_dim).
  int64_t local_hidden_dim = 0;
  // Rows [vocab_begin, vocab_end) of the LM head, padded to local_vocab_size rows, which is equal
  // on all ranks. The last ranks may have fewer real rows, or none. The embedding table is whole on
  // every rank of the first stage.
  int64_t local_vocab_size = 0;
  int64_t vocab_begin = 0;
  int64_t vocab_end = 0;
  bool has_embedding = false;  // true on the first stage
  bool has_head = false;       // true on the last stage: final norm and LM head
};

// Returns the share of the rank at `stage` and `tp_rank`. REQUIRES: both are inside the partition
// (CHECK).
RankShape ShapeOfRank(const ModelConfig& config, const Partition& partition, int stage,
                      int tp_rank);

}  // namespace bora
