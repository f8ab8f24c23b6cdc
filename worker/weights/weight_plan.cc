#include "worker/weights/weight_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/int_math.h"

namespace bora {
namespace {

// Most bytes of a chunk. Large enough that the cost of the call does not matter, small enough that
// cancellation and progress are prompt on any usable disk.
constexpr int64_t kChunkBytes = int64_t{4} << 20;
// Every weight begins at a multiple of this: device memory needs it, while the host's vector
// registers need only 64.
constexpr int64_t kAlignmentBytes = 256;

// Least columns of a leaf of a matrix whose columns tensor parallelism does not cut. With this
// value a CPU gets as few leaves as keep the rounding error of a long sum small, and a GPU gets as
// many leaves as keep it busy.
constexpr int64_t kWholeLeafCols = 256;

// The name of the field in RankWeights, for messages.
const char* FieldName(WeightField field) {
  switch (field) {
    case WeightField::kTokEmbeddings:
      return "tok_embeddings";
    case WeightField::kAttentionNorm:
      return "attention_norm";
    case WeightField::kWqkv:
      return "wqkv";
    case WeightField::kWo:
      return "wo";
    case WeightField::kFfnNorm:
      return "ffn_norm";
    case WeightField::kW13:
      return "w13";
    case WeightField::kW2:
      return "w2";
    case WeightField::kNorm:
      return "norm";
    case WeightField::kOutput:
      return "output";
  }
  return "";
}

// The rectangle of rows [row_begin, row_begin + n_rows) and columns [col_begin, col_begin +
// n_cols).
TensorSlice Slice(int64_t row_begin, int64_t n_rows, int64_t col_begin, int64_t n_cols) {
  return {row_begin, row_begin + n_rows, col_begin, col_begin + n_cols};
}

// What AddMatrix must know of a matrix besides its pieces.
struct MatrixSpec {
  WeightField field;
  int64_t layer = kNoLayer;
  WeightLayout layout = WeightLayout::kPanels;
  int64_t n_leaves = 1;
  int64_t n_padding_rows = 0;
};

// Builds a plan weight by weight, in the order of memory. Used once.
class Planner {
 public:
  Planner(const ModelConfig& config, const RankShape& shape, const Precision& precision,
          const MatrixLayout& layout)
      : layout_(layout), plan_{.config = config, .shape = shape, .precision = precision} {}

  WeightPlan Plan() {
    const ModelConfig& config = plan_.config;
    const RankShape& shape = plan_.shape;
    if (shape.has_embedding) {
      AddPlain(WeightField::kTokEmbeddings, plan_.precision.dtype, {TensorKind::kTokEmbeddings},
               Slice(0, config.vocab_size, 0, config.dim));
    }
    for (int64_t layer = shape.layers.begin; layer < shape.layers.end; ++layer) AddLayer(layer);
    if (shape.has_head) {
      AddPlain(WeightField::kNorm, DType::kF32, {TensorKind::kNorm}, Slice(0, 1, 0, config.dim));
      const int64_t n_rows = shape.vocab_end - shape.vocab_begin;
      AddMatrix({.field = WeightField::kOutput,
                 .layout = layout_.matrices,
                 .n_leaves = WholeLeafCount(config.dim),
                 .n_padding_rows = shape.local_vocab_size - n_rows},
                {{{TensorKind::kOutput}, Slice(shape.vocab_begin, n_rows, 0, config.dim)}});
    }
    return std::move(plan_);
  }

 private:
  void AddLayer(int64_t layer) {
    const ModelConfig& config = plan_.config;
    const RankShape& shape = plan_.shape;
    const int64_t dim = config.dim;
    const int64_t q_rows = shape.local_n_heads * config.head_dim;
    const int64_t kv_rows = shape.local_n_kv_heads * config.head_dim;
    const int64_t kv_row_begin = shape.kv_head_begin * config.head_dim;
    const int64_t hidden = shape.local_hidden_dim;
    const int64_t tp = shape.tp_rank;
    AddPlain(WeightField::kAttentionNorm, DType::kF32, {TensorKind::kAttentionNorm, layer},
             Slice(0, 1, 0, dim));
    AddMatrix({.field = WeightField::kWqkv,
               .layer = layer,
               .layout = layout_.matrices,
               .n_leaves = WholeLeafCount(dim)},
              {{{TensorKind::kWq, layer}, Slice(tp * q_rows, q_rows, 0, dim)},
               {{TensorKind::kWk, layer}, Slice(kv_row_begin, kv_rows, 0, dim)},
               {{TensorKind::kWv, layer}, Slice(kv_row_begin, kv_rows, 0, dim)}});
    AddMatrix({.field = WeightField::kWo,
               .layer = layer,
               .layout = layout_.matrices,
               .n_leaves = CutLeafCount(config.n_heads * config.head_dim)},
              {{{TensorKind::kWo, layer}, Slice(0, dim, tp * q_rows, q_rows)}});
    AddPlain(WeightField::kFfnNorm, DType::kF32, {TensorKind::kFfnNorm, layer},
             Slice(0, 1, 0, dim));
    AddMatrix({.field = WeightField::kW13,
               .layer = layer,
               .layout = layout_.gate_up,
               .n_leaves = WholeLeafCount(dim)},
              {{{TensorKind::kW1, layer}, Slice(tp * hidden, hidden, 0, dim)},
               {{TensorKind::kW3, layer}, Slice(tp * hidden, hidden, 0, dim)}});
    AddMatrix({.field = WeightField::kW2,
               .layer = layer,
               .layout = layout_.matrices,
               .n_leaves = CutLeafCount(config.hidden_dim)},
              {{{TensorKind::kW2, layer}, Slice(0, dim, tp * hidden, hidden)}});
  }

  // Adds a weight that is not packed and consists of one slice.
  void AddPlain(WeightField field, DType dtype, TensorId id, const TensorSlice& slice) {
    Add({.field = field,
         .layer = id.layer,
         .form = Weight{.dtype = dtype,
                        .data = nullptr,
                        .n_rows = slice.n_rows(),
                        .n_cols = slice.n_cols()},
         .pieces = {{id, slice}}});
  }

  // Adds a matrix of the pieces, stacked in their order, and the rows of padding below them.
  // REQUIRES: all pieces have the same number of columns (CHECK).
  void AddMatrix(const MatrixSpec& spec, std::vector<WeightPiece> pieces) {
    const int64_t n_cols = pieces[0].slice.n_cols();
    int64_t row = 0;
    for (WeightPiece& piece : pieces) {
      CHECK_EQ(piece.slice.n_cols(), n_cols) << TensorName(piece.id);
      piece.row_begin = row;
      row += piece.slice.n_rows();
    }
    Add({.field = spec.field,
         .layer = spec.layer,
         .form = PackedWeight{.format = plan_.precision.weights,
                              .layout = spec.layout,
                              .data = nullptr,
                              .n_rows = row + spec.n_padding_rows,
                              .n_cols = n_cols,
                              .n_leaves = spec.n_leaves},
         .pieces = std::move(pieces)});
  }

  // Places the weight behind the last one.
  void Add(PlannedWeight weight) {
    weight.begin_bytes = plan_.total_bytes;
    plan_.total_bytes += RoundUp(weight.n_bytes(), kAlignmentBytes);
    plan_.weights.push_back(std::move(weight));
  }

  // Returns the number of leaves of this rank's part of a matrix that tensor parallelism cuts along
  // its columns; the whole matrix has n_cols columns. It is the rank's share of the leaves of the
  // whole matrix, so that the sum over all ranks has the same bits as on one rank. If tp_size does
  // not divide the leaves of the whole matrix, the rank's part is cut on its own, and results then
  // differ in bits from one rank.
  int64_t CutLeafCount(int64_t n_cols) const {
    const int64_t tp_size = plan_.shape.tp_size;
    const int64_t n_leaves = layout_.leaf_count(n_cols, 1);
    return n_leaves % tp_size == 0 ? n_leaves / tp_size : layout_.leaf_count(n_cols / tp_size, 1);
  }

  // Returns the number of leaves of a matrix that has all its columns on this rank.
  int64_t WholeLeafCount(int64_t n_cols) const {
    return layout_.leaf_count(n_cols, kWholeLeafCols);
  }

  const MatrixLayout layout_;
  WeightPlan plan_;
};

}  // namespace

std::string PlannedWeight::name() const {
  if (layer == kNoLayer) return FieldName(field);
  return absl::StrCat("layers.", layer, ".", FieldName(field));
}

int64_t PlannedWeight::n_rows() const {
  return std::visit([](const auto& weight) { return weight.n_rows; }, form);
}

int64_t PlannedWeight::n_cols() const {
  return std::visit([](const auto& weight) { return weight.n_cols; }, form);
}

int64_t PlannedWeight::n_bytes() const {
  if (const auto* const matrix = std::get_if<PackedWeight>(&form)) return matrix->bytes();
  return n_rows() * read_row_bytes();
}

DType PlannedWeight::read_dtype() const {
  const auto* const matrix = std::get_if<PackedWeight>(&form);
  return matrix != nullptr ? InfoOf(matrix->format).rows : std::get<Weight>(form).dtype;
}

int64_t PlannedWeight::read_row_bytes() const { return n_cols() * DTypeBytes(read_dtype()); }

int64_t PlannedWeight::n_elements() const {
  int64_t n = 0;
  for (const WeightPiece& piece : pieces) n += piece.slice.n_elements();
  return n;
}

int64_t WeightPlan::n_elements() const {
  int64_t n = 0;
  for (const PlannedWeight& weight : weights) n += weight.n_elements();
  return n;
}

WeightPlan PlanRankWeights(const ModelConfig& config, const RankShape& shape,
                           const Precision& precision, const MatrixLayout& layout) {
  return Planner(config, shape, precision, layout).Plan();
}

int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape,
                        const Precision& precision, const MatrixLayout& layout) {
  return PlanRankWeights(config, shape, precision, layout).total_bytes;
}

std::vector<WeightChunk> CutIntoChunks(const WeightPlan& plan) {
  std::vector<WeightChunk> chunks;
  for (const PlannedWeight& weight : plan.weights) {
    // A multiple of kPanelRows, so that chunks can end where panels do.
    const int64_t max_rows =
        std::max(kPanelRows, kChunkBytes / weight.read_row_bytes() / kPanelRows * kPanelRows);
    for (const WeightPiece& piece : weight.pieces) {
      for (int64_t row = 0; row < piece.slice.n_rows();) {
        const int64_t n_rows =
            std::min(max_rows - (piece.row_begin + row) % kPanelRows, piece.slice.n_rows() - row);
        WeightChunk chunk = {.weight = &weight, .piece = piece};
        chunk.piece.slice.row_begin += row;
        chunk.piece.slice.row_end = chunk.piece.slice.row_begin + n_rows;
        chunk.piece.row_begin += row;
        chunks.push_back(chunk);
        row += n_rows;
      }
    }
  }
  return chunks;
}

int64_t MaxReadBytes(const std::vector<WeightChunk>& chunks) {
  int64_t n_bytes = 0;
  for (const WeightChunk& chunk : chunks) n_bytes = std::max(n_bytes, chunk.n_read_bytes());
  return n_bytes;
}

}  // namespace bora
