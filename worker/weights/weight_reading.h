// Reads the weights of a plan from a source on several threads, into memory of any kind.
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

struct LoadOptions {
  // If set, called by the loading thread after every turn, the last time with done = total.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  // Whether the source is told of every slice that was read that it will not be needed again: for
  // weights that fill so much of the memory that the files' pages would be in their way.
  bool drops_what_was_read = false;
  // If not null: when it becomes true, loading returns CANCELLED within one turn (4 MiB a thread).
  const std::atomic<bool>* cancelled = nullptr;
};

// Brings chunks to their places. Work goes in turns: the threads read a chunk each, then the
// loading thread ends the turn.
class ChunkReader {
 public:
  ChunkReader() = default;
  virtual ~ChunkReader() = default;
  ChunkReader(const ChunkReader&) = delete;
  ChunkReader& operator=(const ChunkReader&) = delete;

  // Reads the chunk that is number i of the turn, i < the device's n_threads, and adds its bytes to
  // *digest. Several threads call it at once, each with another i.
  virtual absl::Status Read(const WeightSource& source, const WeightChunk& chunk, int i,
                            DigestSum* digest) = 0;

  // All chunks of a turn were read. When it returns, the numbers may be read into again.
  virtual void EndTurn(absl::Span<const WeightChunk>) {}
};

// Reads all chunks, which cover `plan`, on the threads of `device`. Returns the digests of the
// bytes that were read. CANCELLED; errors of the source, with the tensor named. CHECK-fails unless
// as many elements were read as the plan has.
absl::StatusOr<WeightDigests> ReadWeights(const WeightSource& source, const WeightPlan& plan,
                                          std::vector<WeightChunk> chunks, CpuDevice& device,
                                          const LoadOptions& options, ChunkReader* reader);

// INVALID_ARGUMENT if the model has heads larger than the kernels take.
absl::Status CheckHeadDim(const ModelConfig& config);

}  // namespace bora
