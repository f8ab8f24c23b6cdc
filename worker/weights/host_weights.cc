#include "worker/weights/host_weights.h"

#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "base/status_macros.h"
#include "worker/weights/aligned_buffer.h"
#include "worker/weights/weight_plan.h"

namespace bora {
namespace {

// Weights in an AlignedBuffer. Immutable once they have been read.
class HostWeightMemory final : public WeightMemory {
 public:
  explicit HostWeightMemory(AlignedBuffer buffer) : buffer_(std::move(buffer)) {}

  uint8_t* data() const override { return buffer_.data(); }

 private:
  const AlignedBuffer buffer_;
};

// Reads a chunk of a plain weight directly to its place, and a chunk of a matrix into staging
// memory, from where it is packed into its place. Nothing writes the padding (columns that fill up
// the only leaf, rows that fill up the last panel, and rows behind the vocabulary): it must be
// zero, which newly allocated memory is.
class HostChunkReader final : public ChunkReader {
 public:
  HostChunkReader(uint8_t* data, int n_threads, int64_t staging_bytes)
      : data_(data), staging_(n_threads, std::vector<uint8_t>(staging_bytes)) {}

  absl::Status Read(const WeightSource& source, const WeightChunk& chunk, int i,
                    DigestSum* digest) override {
    const PlannedWeight& weight = *chunk.weight;
    const WeightPiece& piece = chunk.piece;
    uint8_t* const to = data_ + weight.begin_bytes;
    const auto* const matrix = std::get_if<PackedWeight>(&weight.form);
    uint8_t* const rows =
        matrix != nullptr ? staging_[i].data() : to + piece.row_begin * weight.read_row_bytes();
    RETURN_IF_ERROR(
        source.ReadSlice(piece.id, piece.slice,
                         ElementsAt(weight.read_dtype(), rows, piece.slice.n_elements()), digest));
    if (matrix != nullptr) {
      PackRowsOfFormat(*matrix, piece.row_begin, piece.slice.n_rows(), rows, to);
    }
    return absl::OkStatus();
  }

 private:
  uint8_t* const data_;
  std::vector<std::vector<uint8_t>> staging_;  // [n_threads][staging_bytes]
};

}  // namespace

absl::StatusOr<std::unique_ptr<RankWeights>> LoadHostWeights(const WeightSource& source,
                                                             const RankShape& shape,
                                                             const Precision& precision,
                                                             CpuDevice& device,
                                                             const LoadOptions& options) {
  RETURN_IF_ERROR(CheckHeadDim(source.config()));
  WeightPlan plan = PlanRankWeights(source.config(), shape, precision, kCpuMatrices);
  ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Allocate(plan.total_bytes, "weights"));
  auto memory = std::make_unique<HostWeightMemory>(std::move(buffer));
  std::vector<WeightChunk> chunks = CutIntoChunks(plan);
  // Its constructor allocates the staging memory of all threads, so that the threads allocate none.
  HostChunkReader reader(memory->data(), device.n_threads(), MaxReadBytes(chunks));
  ASSIGN_OR_RETURN(const WeightDigests digests,
                   ReadWeights(source, plan, std::move(chunks), device, options, &reader));
  return std::make_unique<RankWeights>(std::move(plan), std::move(memory), digests);
}

}  // namespace bora
