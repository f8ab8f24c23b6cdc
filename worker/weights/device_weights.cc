#include "worker/weights/device_weights.h"

#include <utility>
#include <variant>
#include <vector>

#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "worker/weights/weight_plan.h"

namespace bora {
namespace {

// Reads the chunks of a turn into staging memory; the end of the turn copies them to their places
// on the device.
class DeviceChunkReader final : public ChunkReader {
 public:
  explicit DeviceChunkReader(DeviceMemory* memory) : memory_(memory) {}

  absl::Status Read(const WeightSource& source, const WeightChunk& chunk, int i,
                    DigestSum* digest) override {
    const WeightPiece& piece = chunk.piece;
    return source.ReadSlice(
        piece.id, piece.slice,
        ElementsAt(chunk.weight->read_dtype(), memory_->staging(i), piece.slice.n_elements()),
        digest);
  }

  void EndTurn(absl::Span<const WeightChunk> turn) override {
    for (size_t i = 0; i < turn.size(); ++i) Store(turn[i], static_cast<int>(i));
    memory_->Wait();
  }

 private:
  // Queues the copy of chunk i of the turn. Its rows stay contiguous on the device except in layout
  // kGatedRows, where gate and up rows alternate in groups of kGatedGroupRows.
  void Store(const WeightChunk& chunk, int i) {
    const PlannedWeight& weight = *chunk.weight;
    uint8_t* const to = memory_->data() + weight.begin_bytes;
    const int64_t row_bytes = weight.read_row_bytes();
    const int64_t row_begin = chunk.piece.row_begin;
    const auto* const matrix = std::get_if<PackedWeight>(&weight.form);
    if (matrix == nullptr || matrix->layout != WeightLayout::kGatedRows) {
      memory_->Store(i, to + row_begin * row_bytes, 1, chunk.n_read_bytes(), 0);
      return;
    }
    // The plan stacks the gate rows above the up rows. In memory the group of up rows r follows the
    // group of gate rows r.
    const int64_t half = matrix->n_rows / 2;
    const int64_t row = GatedRow(row_begin % half) + (row_begin < half ? 0 : kGatedGroupRows);
    const int64_t group_bytes = kGatedGroupRows * row_bytes;
    memory_->Store(i, to + row * row_bytes, DivExact(chunk.piece.slice.n_rows(), kGatedGroupRows),
                   group_bytes, 2 * group_bytes);
  }

  DeviceMemory* const memory_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RankWeights>> LoadDeviceWeights(
    const WeightSource& source, const RankShape& shape, const Precision& precision,
    CpuDevice& readers, const LoadOptions& options, std::unique_ptr<DeviceMemory> memory) {
  RETURN_IF_ERROR(CheckHeadDim(source.config()));
  CHECK(precision.weights == WeightFormat::kBf16) << "a device's matrices are bf16";
  WeightPlan plan = PlanRankWeights(source.config(), shape, precision, kCudaMatrices);
  std::vector<WeightChunk> chunks = CutIntoChunks(plan);
  RETURN_IF_ERROR(memory->Allocate(plan.total_bytes, readers.n_threads(), MaxReadBytes(chunks)));
  DeviceChunkReader reader(memory.get());
  ASSIGN_OR_RETURN(const WeightDigests digests,
                   ReadWeights(source, plan, std::move(chunks), readers, options, &reader));
  memory->FreeStaging();
  return std::make_unique<RankWeights>(std::move(plan), std::move(memory), digests);
}

}  // namespace bora
