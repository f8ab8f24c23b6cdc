// Reads the weights of a plan from a source on several threads. A ChunkReader decides what becomes
// of the rows, so that the same loop serves memory of the host and of a device.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/weight_digest.h"
#include "model/checkpoint/weights_source.h"
#include "model/config.h"
#include "worker/weights/weight_plan.h"

namespace bora {

// A plain value.
struct LoadOptions {
  // If set, the loading thread calls it after every turn, the last time with done_bytes =
  // total_bytes. Both count elements of the pieces in bytes of the dtype.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  // Whether to tell the source after each slice that it will not be needed again
  // (WeightSource::HaveRead), so that the file's pages leave memory. For weights so large that
  // memory cannot hold both them and their files' pages.
  bool drops_what_was_read = false;
  // If not null: when it becomes true, loading returns CANCELLED within one turn (4 MiB a thread).
  const std::atomic<bool>* cancelled = nullptr;
};

// Puts chunks where they belong. ReadWeights works in turns: first each thread reads one chunk,
// then the loading thread ends the turn. Thread rules per function.
class ChunkReader {
 public:
  ChunkReader() = default;
  virtual ~ChunkReader() = default;
  ChunkReader(const ChunkReader&) = delete;
  ChunkReader& operator=(const ChunkReader&) = delete;

  // Reads chunk number i of the turn, 0 <= i < the device's n_threads(), and adds the digests of
  // the bytes that it read to *digest. Several threads call it at the same time, each with its own
  // i. Errors are those of the source.
  virtual absl::Status Read(const WeightSource& source, const WeightChunk& chunk, int i,
                            DigestSum* digest) = 0;

  // Called by the loading thread when all chunks of the turn were read without error. On return,
  // memory that belongs to the numbers i may be used for the next turn.
  virtual void EndTurn(absl::Span<const WeightChunk>) {}
};

// Reads all chunks with `reader` on the threads of `device`, in the order in which the source
// stores them, and returns the digests of the bytes that were read. Blocks. CANCELLED if
// options.cancelled became true; errors of the source, with the tensor named. REQUIRES: `chunks`
// are those of CutIntoChunks(plan) (CHECK for the number of their elements).
absl::StatusOr<WeightDigests> ReadWeights(const WeightSource& source, const WeightPlan& plan,
                                          std::vector<WeightChunk> chunks, CpuDevice& device,
                                          const LoadOptions& options, ChunkReader* reader);

// INVALID_ARGUMENT if head_dim is larger than the attention kernels support (kMaxCacheHeadDim).
absl::Status CheckHeadDim(const ModelConfig& config);

}  // namespace bora
