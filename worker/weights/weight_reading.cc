#include "worker/weights/weight_reading.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/kv_cache.h"

namespace bora {
namespace {

// How many chunks beyond the current turn are announced to the source. At 4 MiB each they are 128
// MiB, which keep a disk busy for about 100 ms while the chunks of the turn are packed.
constexpr int64_t kChunksAhead = 32;

}  // namespace

absl::StatusOr<WeightDigests> ReadWeights(const WeightSource& source, const WeightPlan& plan,
                                          std::vector<WeightChunk> chunks, CpuDevice& device,
                                          const LoadOptions& options, ChunkReader* reader) {
  // In file order, which disks read fastest.
  std::stable_sort(chunks.begin(), chunks.end(), [&](const WeightChunk& a, const WeightChunk& b) {
    return source.StoragePosition(a.piece.id, a.piece.slice) <
           source.StoragePosition(b.piece.id, b.piece.slice);
  });
  const int64_t n_chunks = static_cast<int64_t>(chunks.size());
  const int64_t element_bytes = DTypeBytes(plan.precision.dtype);
  const int64_t total_bytes = plan.n_elements() * element_bytes;
  int64_t n_announced = 0;
  int64_t done_bytes = 0;
  WeightDigests digests;
  // Of the chunks of one turn; each thread writes only the entry of its chunk.
  std::vector<absl::Status> statuses(device.n_threads());
  std::vector<DigestSum> turn_digests(device.n_threads());
  for (int64_t begin = 0; begin < n_chunks; begin += device.n_threads()) {
    if (options.cancelled != nullptr && options.cancelled->load()) {
      return absl::CancelledError(
          absl::StrCat("weights: cancelled after ", done_bytes, " of ", total_bytes, " bytes"));
    }
    const int64_t n = std::min<int64_t>(device.n_threads(), n_chunks - begin);
    for (; n_announced < std::min(n_chunks, begin + n + kChunksAhead); ++n_announced) {
      source.WillRead(chunks[n_announced].piece.id, chunks[n_announced].piece.slice);
    }
    const absl::Span<const WeightChunk> turn = absl::MakeConstSpan(chunks).subspan(begin, n);
    device.ParallelFor(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        statuses[i] = reader->Read(source, turn[i], static_cast<int>(i), &turn_digests[i]);
      }
    });
    for (int64_t i = 0; i < n; ++i) {
      const WeightPiece& piece = turn[i].piece;
      RETURN_IF_ERROR(Annotate(statuses[i], absl::StrCat("weights: ", TensorName(piece.id))));
      digests[DigestPartOf(piece.id.kind)] += std::exchange(turn_digests[i], DigestSum());
      if (options.drops_what_was_read) source.HaveRead(piece.id, piece.slice);
      done_bytes += piece.slice.n_elements() * element_bytes;
    }
    reader->EndTurn(turn);
    if (options.progress) options.progress(done_bytes, total_bytes);
  }
  // Pieces do not overlap, as the plan makes them, so the right sum means that each element was
  // written exactly once.
  CHECK_EQ(done_bytes, total_bytes) << "weight bytes written";
  return digests;
}

absl::Status CheckHeadDim(const ModelConfig& config) {
  if (config.head_dim <= kMaxCacheHeadDim) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("head_dim: ", config.head_dim, " is more than ",
                                                 kMaxCacheHeadDim,
                                                 ", the most that attention supports"));
}

}  // namespace bora
