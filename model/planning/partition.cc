#include "model/planning/partition.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Limit of tp_size: more than any sensible group for models of this size.
constexpr int kMaxTpSize = 1024;

// Columns that a sum adds up in one piece (kLeafAlignment of kernels/packed_weight.h).
constexpr int64_t kColumnsOfALeaf = 4;

// INVALID_ARGUMENT unless tp_size divides the field's value.
absl::Status CheckDivides(int tp_size, const char* field, int64_t value) {
  if (value % tp_size == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor parallel size ", tp_size, " does not divide ", field, " ", value));
}

// INVALID_ARGUMENT unless one of the two numbers divides the other.
absl::Status CheckKvHeads(int tp_size, int64_t n_kv_heads) {
  if (n_kv_heads % tp_size == 0 || tp_size % n_kv_heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor parallel size ", tp_size,
                                                 " and n_kv_heads ", n_kv_heads,
                                                 ": neither divides the other"));
}

// With 2, 4 and 8 tensor ranks the results have the same bits as with one. For that, matrices that
// are cut along their columns must be cut between leaves of a sum, at multiples of kColumnsOfALeaf
// columns, which real models satisfy. Other degrees have bits of their own and need no such
// condition.
absl::Status CheckLeaves(int tp_size, const char* field, int64_t n_cols) {
  const bool has_the_bits_of_one = tp_size == 2 || tp_size == 4 || tp_size == 8;
  if (!has_the_bits_of_one || n_cols % (tp_size * kColumnsOfALeaf) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor parallel size ", tp_size, ": ", field, " ",
                                                 n_cols, " leaves each rank ", n_cols / tp_size,
                                                 ", which is not a multiple of ", kColumnsOfALeaf));
}

// Gives each layer in turn to the least loaded stage, which minimises the load of the most loaded
// one. Loads are in units of one layer. A decode step reads every weight once, so the head counts
// vocab_size * dim divided by the weights of a layer (copies of KV heads included). A token
// reads only one row of the embedding, so the embedding counts almost nothing: of two equally
// loaded stages the first stage gets the layer last.
std::vector<int64_t> BalancedLayers(const ModelConfig& config, int tp_size, int pp_size) {
  const int64_t n_kv_heads = std::max<int64_t>(config.n_kv_heads, tp_size);
  const double layer_weights =
      static_cast<double>(2 * config.dim * config.head_dim * (config.n_heads + n_kv_heads) +
                          3 * config.dim * config.hidden_dim);
  std::vector<double> load(pp_size, 1.0);
  load.back() += static_cast<double>(config.vocab_size * config.dim) / layer_weights;
  load.front() += 1e-6;
  std::vector<int64_t> n_layers(pp_size, 1);
  for (int64_t layer = pp_size; layer < config.n_layers; ++layer) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += 1.0;
    ++n_layers[least - load.begin()];
  }
  return n_layers;
}

// INVALID_ARGUMENT unless n_layers [pp_size] are positive and add up to the model's layers.
absl::Status CheckLayersPerStage(const ModelConfig& config, int pp_size,
                                 absl::Span<const int64_t> n_layers) {
  const std::string shown = absl::StrJoin(n_layers, ",");
  if (n_layers.size() != static_cast<size_t>(pp_size)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layers per stage ", shown, " names ", n_layers.size(), " stages, there are ", pp_size));
  }
  int64_t sum = 0;
  for (const int64_t n : n_layers) {
    if (n < 1 || n > config.n_layers) {
      return absl::InvalidArgumentError(absl::StrCat("layers per stage ", shown, ": ", n,
                                                     " must be in [1, ", config.n_layers, "]"));
    }
    sum += n;
  }
  if (sum != config.n_layers) {
    return absl::InvalidArgumentError(absl::StrCat("layers per stage ", shown, " add up to ", sum,
                                                   ", the model has ", config.n_layers));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Partition> MakePartition(const ModelConfig& config, int tp_size, int pp_size,
                                        absl::Span<const int64_t> layers_per_stage) {
  if (tp_size < 1 || tp_size > kMaxTpSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor parallel size is ", tp_size, ", must be in [1, ", kMaxTpSize, "]"));
  }
  if (pp_size < 1 || pp_size > config.n_layers) {
    return absl::InvalidArgumentError(absl::StrCat("pipeline parallel size is ", pp_size,
                                                   ", must be in [1, ", config.n_layers,
                                                   "], the number of layers"));
  }
  RETURN_IF_ERROR(CheckDivides(tp_size, "n_heads", config.n_heads));
  RETURN_IF_ERROR(CheckKvHeads(tp_size, config.n_kv_heads));
  RETURN_IF_ERROR(CheckDivides(tp_size, "hidden_dim", config.hidden_dim));
  RETURN_IF_ERROR(CheckLeaves(tp_size, "n_heads * head_dim", config.n_heads * config.head_dim));
  RETURN_IF_ERROR(CheckLeaves(tp_size, "hidden_dim", config.hidden_dim));
  std::vector<int64_t> n_layers(layers_per_stage.begin(), layers_per_stage.end());
  if (n_layers.empty()) {
    n_layers = BalancedLayers(config, tp_size, pp_size);
  } else {
    RETURN_IF_ERROR(CheckLayersPerStage(config, pp_size, n_layers));
  }
  Partition partition{tp_size, pp_size, {}};
  int64_t begin = 0;
  for (const int64_t n : n_layers) {
    partition.stages.push_back({begin, begin + n});
    begin += n;
  }
  return partition;
}

RankShape ShapeOfRank(const ModelConfig& config, const Partition& partition, int stage,
                      int tp_rank) {
  CHECK(stage >= 0 && stage < partition.pp_size) << stage << " of " << partition.pp_size;
  CHECK(tp_rank >= 0 && tp_rank < partition.tp_size) << tp_rank << " of " << partition.tp_size;
  RankShape shape;
  shape.stage = stage;
  shape.tp_rank = tp_rank;
  shape.tp_size = partition.tp_size;
  shape.layers = partition.stages[stage];
  shape.local_n_heads = DivExact(config.n_heads, partition.tp_size);
  if (partition.tp_size <= config.n_kv_heads) {
    shape.local_n_kv_heads = DivExact(config.n_kv_heads, partition.tp_size);
    shape.kv_head_begin = tp_rank * shape.local_n_kv_heads;
  } else {
    // The query heads of one KV head are exactly those of tp_size / n_kv_heads consecutive ranks,
    // since n_kv_heads divides tp_size and tp_size divides n_heads.
    shape.local_n_kv_heads = 1;
    shape.kv_head_begin = tp_rank / DivExact(partition.tp_size, config.n_kv_heads);
  }
  shape.local_hidden_dim = DivExact(config.hidden_dim, partition.tp_size);
  shape.local_vocab_size = CeilDiv(config.vocab_size, partition.tp_size);
  shape.vocab_begin = std::min(tp_rank * shape.local_vocab_size, config.vocab_size);
  shape.vocab_end = std::min(shape.vocab_begin + shape.local_vocab_size, config.vocab_size);
  shape.has_embedding = stage == 0;
  shape.has_head = stage == partition.pp_size - 1;
  return shape;
}

}  // namespace bora
