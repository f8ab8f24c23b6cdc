#include "worker/rank_weights.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Large enough that a read is not dominated by its call, small enough that cancellation and
// progress are prompt at any disk speed worth using.
constexpr int64_t kChunkBytes = int64_t{4} << 20;
constexpr int64_t kMaxAttentionHeadDim = 256;  // of PagedAttention
constexpr int64_t kAlignmentBytes = 64;        // a cache line, also the widest vector

// Rows [row_begin, row_begin + n_rows) of columns [col_begin, col_begin + n_cols).
TensorSlice Slice(int64_t row_begin, int64_t n_rows, int64_t col_begin, int64_t n_cols) {
  return {row_begin, row_begin + n_rows, col_begin, col_begin + n_cols};
}

template <typename Element>
absl::Status Read(const WeightSource& source, TensorId id, const TensorSlice& slice, uint8_t* dst) {
  return source.ReadSlice(id, slice,
                          absl::MakeSpan(reinterpret_cast<Element*>(dst), slice.n_elements()));
}

}  // namespace

RankWeights::RankWeights(const ModelConfig& config, const RankShape& shape, DType dtype)
    : config_(config), shape_(shape), dtype_(dtype), layers_(shape.layers.n_layers()) {
  if (shape.has_embedding) {
    const TensorId id{TensorKind::kTokEmbeddings};
    PlanMatrix(&tok_embeddings_, dtype, {{id, Slice(0, config.vocab_size, 0, config.dim)}},
               config.vocab_size);
  }
  for (int64_t i = 0; i < shape.layers.n_layers(); ++i) {
    PlanLayer(shape.layers.begin + i, &layers_[i]);
  }
  if (shape.has_head) {
    PlanMatrix(&norm_, DType::kF32, {{{TensorKind::kNorm}, Slice(0, 1, 0, config.dim)}}, 1);
    const int64_t n_rows = shape.vocab_end - shape.vocab_begin;
    PlanMatrix(&output_, dtype,
               {{{TensorKind::kOutput}, Slice(shape.vocab_begin, n_rows, 0, config.dim)}},
               shape.local_vocab_size);
  }
}

// Column-parallel projections hold this rank's output rows, row-parallel ones its input columns.
void RankWeights::PlanLayer(int64_t layer, LayerWeights* weights) {
  const int64_t dim = config_.dim;
  const int64_t q_rows = shape_.local_n_heads * config_.head_dim;
  const int64_t kv_rows = shape_.local_n_kv_heads * config_.head_dim;
  const int64_t hidden = shape_.local_hidden_dim;
  const int64_t tp = shape_.tp_rank;
  const auto piece = [layer](TensorKind kind, const TensorSlice& slice) {
    return Piece{{kind, layer}, slice};
  };
  PlanMatrix(&weights->attention_norm, DType::kF32,
             {piece(TensorKind::kAttentionNorm, Slice(0, 1, 0, dim))}, 1);
  PlanMatrix(&weights->wqkv, dtype_,
             {piece(TensorKind::kWq, Slice(tp * q_rows, q_rows, 0, dim)),
              piece(TensorKind::kWk, Slice(tp * kv_rows, kv_rows, 0, dim)),
              piece(TensorKind::kWv, Slice(tp * kv_rows, kv_rows, 0, dim))},
             q_rows + 2 * kv_rows);
  PlanMatrix(&weights->wo, dtype_, {piece(TensorKind::kWo, Slice(0, dim, tp * q_rows, q_rows))},
             dim);
  PlanMatrix(&weights->ffn_norm, DType::kF32, {piece(TensorKind::kFfnNorm, Slice(0, 1, 0, dim))},
             1);
  PlanMatrix(&weights->w13, dtype_,
             {piece(TensorKind::kW1, Slice(tp * hidden, hidden, 0, dim)),
              piece(TensorKind::kW3, Slice(tp * hidden, hidden, 0, dim))},
             2 * hidden);
  PlanMatrix(&weights->w2, dtype_, {piece(TensorKind::kW2, Slice(0, dim, tp * hidden, hidden))},
             dim);
}

// Stacks the parts, which have equal columns, into one matrix of n_rows; the rows that no part
// fills are padding.
void RankWeights::PlanMatrix(Weight* weight, DType dtype, absl::Span<const Piece> parts,
                             int64_t n_rows) {
  const int64_t n_cols = parts[0].slice.n_cols();
  *weight = {.dtype = dtype, .data = nullptr, .n_rows = n_rows, .n_cols = n_cols};
  offsets_.emplace_back(weight, total_bytes_);
  int64_t end = total_bytes_;
  for (Piece piece : parts) {
    CHECK_EQ(piece.slice.n_cols(), n_cols) << TensorName(piece.id);
    piece.dtype = dtype;
    piece.offset_bytes = end;
    end += piece.slice.n_elements() * DTypeBytes(dtype);
    pieces_.push_back(piece);
  }
  const int64_t matrix_bytes = n_rows * n_cols * DTypeBytes(dtype);
  CHECK_LE(end, total_bytes_ + matrix_bytes);
  total_bytes_ += RoundUp(matrix_bytes, kAlignmentBytes);
}

void RankWeights::PlaceWeights() {
  for (const auto& [weight, offset] : offsets_) weight->data = memory_.data() + offset;
  if (!shape_.has_head) return;
  const int64_t n_rows = shape_.vocab_end - shape_.vocab_begin;
  const int64_t row_bytes = config_.dim * DTypeBytes(dtype_);
  uint8_t* padding = static_cast<uint8_t*>(const_cast<void*>(output_.data)) + n_rows * row_bytes;
  std::memset(padding, 0, (shape_.local_vocab_size - n_rows) * row_bytes);
}

absl::StatusOr<std::unique_ptr<RankWeights>> RankWeights::Load(const WeightSource& source,
                                                               const RankShape& shape, DType dtype,
                                                               CpuDevice& device,
                                                               const LoadOptions& options) {
  if (source.config().head_dim > kMaxAttentionHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("head_dim: ", source.config().head_dim,
                                                   " is more than ", kMaxAttentionHeadDim,
                                                   ", the most that attention supports"));
  }
  std::unique_ptr<RankWeights> weights(new RankWeights(source.config(), shape, dtype));
  ASSIGN_OR_RETURN(weights->memory_, AlignedBuffer::Allocate(weights->total_bytes_, "weights"));
  weights->PlaceWeights();
  RETURN_IF_ERROR(weights->ReadPieces(source, device, options));
  return weights;
}

// The pieces cut into whole rows, at most kChunkBytes each unless one row is more.
std::vector<RankWeights::Piece> RankWeights::Chunks() const {
  std::vector<Piece> chunks;
  for (const Piece& piece : pieces_) {
    const int64_t row_bytes = piece.slice.n_cols() * DTypeBytes(piece.dtype);
    const int64_t chunk_rows = std::max<int64_t>(1, kChunkBytes / row_bytes);
    for (int64_t row = 0; row < piece.slice.n_rows(); row += chunk_rows) {
      Piece chunk = piece;
      chunk.slice.row_begin += row;
      chunk.slice.row_end = std::min(chunk.slice.row_begin + chunk_rows, piece.slice.row_end);
      chunk.offset_bytes += row * row_bytes;
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

// Bytes of all weights without padding rows and alignment gaps.
int64_t RankWeights::PayloadBytes() const {
  int64_t bytes = 0;
  for (const auto& [weight, offset] : offsets_) {
    bytes += weight->n_rows * weight->n_cols * DTypeBytes(weight->dtype);
  }
  if (!shape_.has_head) return bytes;
  const int64_t n_padding_rows = shape_.local_vocab_size - (shape_.vocab_end - shape_.vocab_begin);
  return bytes - n_padding_rows * config_.dim * DTypeBytes(dtype_);
}

absl::Status RankWeights::ReadPieces(const WeightSource& source, CpuDevice& device,
                                     const LoadOptions& options) {
  const std::vector<Piece> chunks = Chunks();
  const int64_t n_chunks = static_cast<int64_t>(chunks.size());
  const int64_t total_bytes = PayloadBytes();
  std::vector<absl::Status> statuses(device.n_threads());
  int64_t done_bytes = 0;
  for (int64_t begin = 0; begin < n_chunks; begin += device.n_threads()) {
    if (options.cancelled != nullptr && options.cancelled->load()) {
      return absl::CancelledError(
          absl::StrCat("weights: cancelled after ", done_bytes, " of ", total_bytes, " bytes"));
    }
    const int64_t n = std::min<int64_t>(device.n_threads(), n_chunks - begin);
    device.ParallelFor(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Piece& chunk = chunks[begin + i];
        uint8_t* dst = memory_.data() + chunk.offset_bytes;
        statuses[i] = chunk.dtype == DType::kF32 ? Read<float>(source, chunk.id, chunk.slice, dst)
                                                 : Read<Bf16>(source, chunk.id, chunk.slice, dst);
      }
    });
    for (int64_t i = 0; i < n; ++i) {
      const Piece& chunk = chunks[begin + i];
      RETURN_IF_ERROR(Annotate(statuses[i], absl::StrCat("weights: ", TensorName(chunk.id))));
      done_bytes += chunk.slice.n_elements() * DTypeBytes(chunk.dtype);
    }
    if (options.progress) options.progress(done_bytes, total_bytes);
  }
  // Pieces do not overlap by construction, so the right sum means that each element was written
  // once.
  CHECK_EQ(done_bytes, total_bytes) << "weight bytes written";
  return absl::OkStatus();
}

int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape, DType dtype) {
  return RankWeights(config, shape, dtype).total_bytes_;
}

}  // namespace bora
