// The weights of one rank in the layout the forward pass wants: its heads and FFN columns only, the
// query, key and value projections fused into one matrix, gate and up into another.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device.h"
#include "model/config.h"
#include "model/partition.h"
#include "model/weights_source.h"
#include "worker/aligned_buffer.h"

namespace bora {

// Norm gains are float whatever the dtype of the matrices: they are 1/dim of the bytes.
struct LayerWeights {
  Weight attention_norm;  // [1, dim]
  Weight wqkv;            // [(local_n_heads + 2 * local_n_kv_heads) * head_dim, dim]
  Weight wo;              // [dim, local_n_heads * head_dim], a column slice
  Weight ffn_norm;        // [1, dim]
  Weight w13;             // [2 * local_hidden_dim, dim]: gate rows, then up rows
  Weight w2;              // [dim, local_hidden_dim], a column slice
};

struct LoadOptions {
  // Called by the loading thread now and then, the last time with done = total.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  // When it becomes true, Load returns CANCELLED within one chunk (4 MiB a thread).
  const std::atomic<bool>* cancelled = nullptr;
};

// Immutable after Load. Survives epochs: a new group under the same shape uses it again.
class RankWeights {
 public:
  // Reads the rank's share of `source` on the threads of `device`. INVALID_ARGUMENT when the model
  // has heads larger than the kernels take; RESOURCE_EXHAUSTED when memory is short; CANCELLED;
  // errors of the source, with the tensor named. Every element is written exactly once (CHECK).
  static absl::StatusOr<std::unique_ptr<RankWeights>> Load(const WeightSource& source,
                                                           const RankShape& shape, DType dtype,
                                                           CpuDevice& device,
                                                           const LoadOptions& options = {});

  RankWeights(const RankWeights&) = delete;
  RankWeights& operator=(const RankWeights&) = delete;

  const ModelConfig& config() const { return config_; }
  const RankShape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  int64_t bytes() const { return total_bytes_; }

  const Weight& tok_embeddings() const { return tok_embeddings_; }  // [vocab_size, dim], stage 0
  absl::Span<const LayerWeights> layers() const { return layers_; }
  const Weight& norm() const { return norm_; }  // [1, dim], last stage
  // [local_vocab_size, dim], last stage; rows from vocab_end - vocab_begin on are zero.
  const Weight& output() const { return output_; }

 private:
  friend int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape, DType dtype);

  // A rectangle of one tensor and where it goes.
  struct Piece {
    TensorId id;
    TensorSlice slice;
    DType dtype = DType::kF32;
    int64_t offset_bytes = 0;
  };

  RankWeights(const ModelConfig& config, const RankShape& shape, DType dtype);

  void PlanLayer(int64_t layer, LayerWeights* weights);
  void PlanMatrix(Weight* weight, DType dtype, absl::Span<const Piece> parts, int64_t n_rows);
  void PlaceWeights();
  std::vector<Piece> Chunks() const;
  int64_t PayloadBytes() const;
  absl::Status ReadPieces(const WeightSource& source, CpuDevice& device,
                          const LoadOptions& options);

  const ModelConfig config_;
  const RankShape shape_;
  const DType dtype_;

  std::vector<Piece> pieces_;
  std::vector<std::pair<Weight*, int64_t>> offsets_;  // of each weight in memory_
  int64_t total_bytes_ = 0;                           // with the gaps that align each weight
  AlignedBuffer memory_;

  Weight tok_embeddings_;
  std::vector<LayerWeights> layers_;
  Weight norm_;
  Weight output_;
};

// What RankWeights::Load of this shape allocates.
int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape, DType dtype);

}  // namespace bora
