#include "worker/weights/rank_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"

namespace bora {
namespace {

// Large enough that a read is not dominated by its call, small enough that cancellation and
// progress are prompt at any disk speed worth using.
constexpr int64_t kChunkBytes = int64_t{4} << 20;
// Chunks that the source knows of before they are read: 128 MiB keep a disk busy for some 100 ms
// while others are packed.
constexpr int64_t kChunksAhead = 32;
constexpr int64_t kMaxAttentionHeadDim = 256;  // of PagedAttention
constexpr int64_t kAlignmentBytes = 256;       // of device memory; the host's vectors have 64

// Rows [row_begin, row_begin + n_rows) of columns [col_begin, col_begin + n_cols).
TensorSlice Slice(int64_t row_begin, int64_t n_rows, int64_t col_begin, int64_t n_cols) {
  return {row_begin, row_begin + n_rows, col_begin, col_begin + n_cols};
}

template <typename Element>
absl::Status Read(const WeightSource& source, TensorId id, const TensorSlice& slice, uint8_t* dst,
                  DigestSum* digest) {
  return source.ReadSlice(
      id, slice, absl::MakeSpan(reinterpret_cast<Element*>(dst), slice.n_elements()), digest);
}

// Bytes of one row-major row of a piece as it is read from the source.
int64_t ReadRowBytes(const PackedWeight* packed, const Weight* plain, int64_t n_cols) {
  if (packed == nullptr) return n_cols * DTypeBytes(plain->dtype);
  const bool is_short =
      packed->format == WeightFormat::kBf16 || packed->format == WeightFormat::kF16;
  return n_cols * (is_short ? 2 : 4);
}

}  // namespace

RankWeights::RankWeights(const ModelConfig& config, const RankShape& shape,
                         const Precision& precision, bool by_rows)
    : config_(config),
      shape_(shape),
      precision_(precision),
      by_rows_(by_rows),
      layers_(shape.layers.n_layers()) {
  if (shape.has_embedding) {
    PlanPlain(&tok_embeddings_, precision.dtype, {TensorKind::kTokEmbeddings},
              Slice(0, config.vocab_size, 0, config.dim));
  }
  for (int64_t i = 0; i < shape.layers.n_layers(); ++i) {
    PlanLayer(shape.layers.begin + i, &layers_[i]);
  }
  if (shape.has_head) {
    PlanPlain(&norm_, DType::kF32, {TensorKind::kNorm}, Slice(0, 1, 0, config.dim));
    const int64_t n_rows = shape.vocab_end - shape.vocab_begin;
    PlanPacked(&output_, {{{TensorKind::kOutput}, Slice(shape.vocab_begin, n_rows, 0, config.dim)}},
               shape.local_vocab_size, WholeLeafCount(config.dim));
  }
}

// A degree that does not divide the leaves gives each rank a tree of its own, and other bits than
// one rank.
int64_t RankWeights::CutLeafCount(int64_t n_cols) const {
  const auto count = by_rows_ ? CudaLeafCount : LeafCount;
  const int64_t n_leaves = count(n_cols, 1);
  return n_leaves % shape_.tp_size == 0 ? n_leaves / shape_.tp_size
                                        : count(n_cols / shape_.tp_size, 1);
}

// On the CPU as few as keep the error of a long sum small; on a GPU as many as keep it busy.
int64_t RankWeights::WholeLeafCount(int64_t n_cols) const {
  return by_rows_ ? CudaLeafCount(n_cols, 256) : LeafCount(n_cols, 256);
}

// Column-parallel projections hold this rank's output rows, row-parallel ones its input columns.
// Ranks that attend to the same KV head hold copies of its rows.
void RankWeights::PlanLayer(int64_t layer, LayerWeights* weights) {
  const int64_t dim = config_.dim;
  const int64_t q_rows = shape_.local_n_heads * config_.head_dim;
  const int64_t kv_rows = shape_.local_n_kv_heads * config_.head_dim;
  const int64_t kv_row_begin = shape_.kv_head_begin * config_.head_dim;
  const int64_t hidden = shape_.local_hidden_dim;
  const int64_t tp = shape_.tp_rank;
  const auto piece = [layer](TensorKind kind, const TensorSlice& slice) {
    return Piece{{kind, layer}, slice};
  };
  PlanPlain(&weights->attention_norm, DType::kF32, {TensorKind::kAttentionNorm, layer},
            Slice(0, 1, 0, dim));
  PlanPacked(&weights->wqkv,
             {piece(TensorKind::kWq, Slice(tp * q_rows, q_rows, 0, dim)),
              piece(TensorKind::kWk, Slice(kv_row_begin, kv_rows, 0, dim)),
              piece(TensorKind::kWv, Slice(kv_row_begin, kv_rows, 0, dim))},
             q_rows + 2 * kv_rows, WholeLeafCount(dim));
  PlanPacked(&weights->wo, {piece(TensorKind::kWo, Slice(0, dim, tp * q_rows, q_rows))}, dim,
             CutLeafCount(config_.n_heads * config_.head_dim));
  PlanPlain(&weights->ffn_norm, DType::kF32, {TensorKind::kFfnNorm, layer}, Slice(0, 1, 0, dim));
  PlanPacked(&weights->w13,
             {piece(TensorKind::kW1, Slice(tp * hidden, hidden, 0, dim)),
              piece(TensorKind::kW3, Slice(tp * hidden, hidden, 0, dim))},
             2 * hidden, WholeLeafCount(dim));
  if (by_rows_) weights->w13.layout = WeightLayout::kGatedRows;
  PlanPacked(&weights->w2, {piece(TensorKind::kW2, Slice(0, dim, tp * hidden, hidden))}, dim,
             CutLeafCount(config_.hidden_dim));
}

int64_t RankWeights::Reserve(int64_t n_bytes) {
  return std::exchange(total_bytes_, total_bytes_ + RoundUp(n_bytes, kAlignmentBytes));
}

void RankWeights::PlanPlain(Weight* weight, DType dtype, TensorId id, const TensorSlice& slice) {
  *weight = {.dtype = dtype, .data = nullptr, .n_rows = slice.n_rows(), .n_cols = slice.n_cols()};
  plain_offsets_.emplace_back(weight, Reserve(slice.n_elements() * DTypeBytes(dtype)));
  pieces_.push_back({.id = id, .slice = slice, .plain = weight});
}

// Stacks the parts, which have equal columns, into one matrix of n_rows; the rows that no part
// fills are padding.
void RankWeights::PlanPacked(PackedWeight* weight, absl::Span<const Piece> parts, int64_t n_rows,
                             int64_t n_leaves) {
  *weight = {.format = precision_.weights,
             .layout = by_rows_ ? WeightLayout::kRows : WeightLayout::kPanels,
             .data = nullptr,
             .n_rows = n_rows,
             .n_cols = parts[0].slice.n_cols(),
             .n_leaves = n_leaves};
  packed_offsets_.emplace_back(weight, Reserve(weight->bytes()));
  int64_t row = 0;
  for (Piece piece : parts) {
    CHECK_EQ(piece.slice.n_cols(), weight->n_cols) << TensorName(piece.id);
    piece.packed = weight;
    piece.row_begin = row;
    row += piece.slice.n_rows();
    pieces_.push_back(piece);
  }
  CHECK_LE(row, n_rows);
}

void RankWeights::PlaceWeights() {
  const uint8_t* const begin = by_rows_ ? device_memory_->data() : memory_.data();
  for (const auto& [weight, offset] : plain_offsets_) weight->data = begin + offset;
  // Padding must be zero, and fresh memory is: columns that fill up the only leaf, rows that fill
  // up the last panel, and those of the vocabulary.
  for (const auto& [weight, offset] : packed_offsets_) weight->data = begin + offset;
}

absl::StatusOr<std::unique_ptr<RankWeights>> RankWeights::Load(
    const WeightSource& source, const RankShape& shape, const Precision& precision,
    CpuDevice& device, const LoadOptions& options, std::unique_ptr<DeviceMemory> memory) {
  if (source.config().head_dim > kMaxAttentionHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("head_dim: ", source.config().head_dim,
                                                   " is more than ", kMaxAttentionHeadDim,
                                                   ", the most that attention supports"));
  }
  std::unique_ptr<RankWeights> weights(
      new RankWeights(source.config(), shape, precision, memory != nullptr));
  if (memory != nullptr) {
    CHECK(precision.weights == WeightFormat::kBf16) << "a device's matrices are bf16";
    // A chunk is at most kChunkBytes unless one panel is more.
    int64_t staging_bytes = 0;
    for (const Piece& chunk : weights->Chunks()) {
      staging_bytes = std::max(
          staging_bytes,
          chunk.slice.n_rows() * ReadRowBytes(chunk.packed, chunk.plain, chunk.slice.n_cols()));
    }
    RETURN_IF_ERROR(memory->Allocate(weights->total_bytes_, device.n_threads(), staging_bytes));
    weights->device_memory_ = std::move(memory);
  } else {
    ASSIGN_OR_RETURN(weights->memory_, AlignedBuffer::Allocate(weights->total_bytes_, "weights"));
  }
  weights->PlaceWeights();
  RETURN_IF_ERROR(weights->ReadPieces(source, device, options));
  if (weights->device_memory_ != nullptr) weights->device_memory_->FreeStaging();
  return weights;
}

std::unique_ptr<const RankWeights> RankWeights::Shapes(const ModelConfig& config,
                                                       const RankShape& shape,
                                                       const Precision& precision) {
  return std::unique_ptr<const RankWeights>(
      new RankWeights(config, shape, precision, /*by_rows=*/false));
}

// The pieces cut into whole rows, at most kChunkBytes each unless one panel is more.
std::vector<RankWeights::Piece> RankWeights::Chunks() const {
  std::vector<Piece> chunks;
  for (const Piece& piece : pieces_) {
    const int64_t row_bytes = ReadRowBytes(piece.packed, piece.plain, piece.slice.n_cols());
    const int64_t chunk_rows =
        std::max(kPanelRows, kChunkBytes / row_bytes / kPanelRows * kPanelRows);
    for (int64_t row = 0; row < piece.slice.n_rows();) {
      // The first chunk ends where a panel does.
      const int64_t n =
          std::min(chunk_rows - (piece.row_begin + row) % kPanelRows, piece.slice.n_rows() - row);
      Piece chunk = piece;
      chunk.slice.row_begin += row;
      chunk.slice.row_end = chunk.slice.row_begin + n;
      chunk.row_begin += row;
      chunks.push_back(chunk);
      row += n;
    }
  }
  return chunks;
}

// Elements of all weights without padding rows.
int64_t RankWeights::n_elements() const {
  int64_t n = 0;
  for (const auto& [weight, offset] : plain_offsets_) n += weight->n_rows * weight->n_cols;
  for (const auto& [weight, offset] : packed_offsets_) n += weight->n_rows * weight->n_cols;
  if (!shape_.has_head) return n;
  return n - (shape_.local_vocab_size - (shape_.vocab_end - shape_.vocab_begin)) * config_.dim;
}

// Reads one chunk: straight to its place, or through `staging` into a packed matrix.
absl::Status RankWeights::ReadChunk(const WeightSource& source, const Piece& chunk,
                                    std::vector<uint8_t>* staging, DigestSum* digest) {
  if (chunk.packed == nullptr) {
    const Weight& weight = *chunk.plain;
    uint8_t* const dst = static_cast<uint8_t*>(const_cast<void*>(weight.data)) +
                         (chunk.row_begin * weight.n_cols) * DTypeBytes(weight.dtype);
    switch (weight.dtype) {
      case DType::kF32:
        return Read<float>(source, chunk.id, chunk.slice, dst, digest);
      case DType::kBf16:
        return Read<Bf16>(source, chunk.id, chunk.slice, dst, digest);
      case DType::kF16:
        return Read<Half>(source, chunk.id, chunk.slice, dst, digest);
    }
  }
  const PackedWeight& weight = *chunk.packed;
  void* const data = const_cast<void*>(weight.data);
  const int64_t n_rows = chunk.slice.n_rows();
  if (weight.format == WeightFormat::kBf16) {
    RETURN_IF_ERROR(Read<Bf16>(source, chunk.id, chunk.slice, staging->data(), digest));
    PackRows(weight, chunk.row_begin, n_rows, reinterpret_cast<const Bf16*>(staging->data()), data);
  } else if (weight.format == WeightFormat::kF16) {
    RETURN_IF_ERROR(Read<Half>(source, chunk.id, chunk.slice, staging->data(), digest));
    PackRows(weight, chunk.row_begin, n_rows, reinterpret_cast<const Half*>(staging->data()), data);
  } else {
    RETURN_IF_ERROR(Read<float>(source, chunk.id, chunk.slice, staging->data(), digest));
    PackRows(weight, chunk.row_begin, n_rows, reinterpret_cast<const float*>(staging->data()),
             data);
  }
  return absl::OkStatus();
}

// Reads one chunk into staging memory.
absl::Status RankWeights::StageChunk(const WeightSource& source, const Piece& chunk, int i,
                                     DigestSum* digest) {
  const bool is_bf16 = chunk.packed != nullptr || chunk.plain->dtype == DType::kBf16;
  uint8_t* const dst = device_memory_->staging(i);
  return is_bf16 ? Read<Bf16>(source, chunk.id, chunk.slice, dst, digest)
                 : Read<float>(source, chunk.id, chunk.slice, dst, digest);
}

// Copies a chunk from staging memory to its place.
void RankWeights::StoreChunk(const Piece& chunk, int i) {
  const int64_t row_bytes = ReadRowBytes(chunk.packed, chunk.plain, chunk.slice.n_cols());
  const int64_t n_rows = chunk.slice.n_rows();
  const void* const data = chunk.packed != nullptr ? chunk.packed->data : chunk.plain->data;
  uint8_t* const begin = static_cast<uint8_t*>(const_cast<void*>(data));
  if (chunk.packed == nullptr || chunk.packed->layout != WeightLayout::kGatedRows) {
    device_memory_->Store(i, begin + chunk.row_begin * row_bytes, 1, n_rows * row_bytes, 0);
    return;
  }
  const int64_t half = chunk.packed->n_rows / 2;
  const bool is_up = chunk.row_begin >= half;
  const int64_t row = GatedRow(chunk.row_begin % half) + (is_up ? kGatedGroupRows : 0);
  const int64_t group_bytes = kGatedGroupRows * row_bytes;
  device_memory_->Store(i, begin + row * row_bytes, DivExact(n_rows, kGatedGroupRows), group_bytes,
                        2 * group_bytes);
}

absl::Status RankWeights::ReadPieces(const WeightSource& source, CpuDevice& device,
                                     const LoadOptions& options) {
  std::vector<Piece> chunks = Chunks();
  std::stable_sort(chunks.begin(), chunks.end(), [&](const Piece& a, const Piece& b) {
    return source.StoragePosition(a.id, a.slice) < source.StoragePosition(b.id, b.slice);
  });
  const int64_t n_chunks = static_cast<int64_t>(chunks.size());
  int64_t n_announced = 0;
  const int64_t element_bytes = DTypeBytes(precision_.dtype);
  const int64_t total_bytes = n_elements() * element_bytes;
  std::vector<absl::Status> statuses(device.n_threads());
  std::vector<DigestSum> digests(device.n_threads());
  // Here, where no memory is an error that can be returned, not on a helper's thread.
  int64_t staging_bytes = 0;
  for (const Piece& chunk : chunks) {
    if (chunk.packed == nullptr || by_rows_) continue;
    staging_bytes =
        std::max(staging_bytes,
                 chunk.slice.n_rows() * ReadRowBytes(chunk.packed, nullptr, chunk.slice.n_cols()));
  }
  std::vector<std::vector<uint8_t>> staging(device.n_threads(),
                                            std::vector<uint8_t>(staging_bytes));
  int64_t done_bytes = 0;
  for (int64_t begin = 0; begin < n_chunks; begin += device.n_threads()) {
    if (options.cancelled != nullptr && options.cancelled->load()) {
      return absl::CancelledError(
          absl::StrCat("weights: cancelled after ", done_bytes, " of ", total_bytes, " bytes"));
    }
    const int64_t n = std::min<int64_t>(device.n_threads(), n_chunks - begin);
    for (; n_announced < std::min(n_chunks, begin + n + kChunksAhead); ++n_announced) {
      source.WillRead(chunks[n_announced].id, chunks[n_announced].slice);
    }
    device.ParallelFor(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Piece& chunk = chunks[begin + i];
        statuses[i] = by_rows_ ? StageChunk(source, chunk, static_cast<int>(i), &digests[i])
                               : ReadChunk(source, chunk, &staging[i], &digests[i]);
      }
    });
    for (int64_t i = 0; i < n; ++i) {
      const Piece& chunk = chunks[begin + i];
      RETURN_IF_ERROR(Annotate(statuses[i], absl::StrCat("weights: ", TensorName(chunk.id))));
      digests_[DigestPartOf(chunk.id.kind)] += std::exchange(digests[i], DigestSum());
      if (by_rows_) StoreChunk(chunk, static_cast<int>(i));
      if (options.drops_what_was_read) source.HaveRead(chunk.id, chunk.slice);
      done_bytes += chunk.slice.n_elements() * element_bytes;
    }
    if (by_rows_) device_memory_->Wait();
    if (options.progress) options.progress(done_bytes, total_bytes);
  }
  // Pieces do not overlap by construction, so the right sum means that each element was written
  // once.
  CHECK_EQ(done_bytes, total_bytes) << "weight bytes written";
  return absl::OkStatus();
}

int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape,
                        const Precision& precision, bool by_rows) {
  return RankWeights(config, shape, precision, by_rows).total_bytes_;
}

}  // namespace bora
