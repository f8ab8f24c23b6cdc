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
#include "kernels/cpu/cpu_device.h"
#include "kernels/packed_weight.h"
#include "model/checkpoint/weight_digest.h"
#include "model/checkpoint/weights_source.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "worker/weights/aligned_buffer.h"

namespace bora {

// Types of a rank's numbers.
struct Precision {
  // Matrices of the same type as everything else.
  Precision(DType dtype)  // NOLINT: a dtype is a precision
      : dtype(dtype),
        weights(dtype == DType::kF32    ? WeightFormat::kF32
                : dtype == DType::kBf16 ? WeightFormat::kBf16
                                        : WeightFormat::kF16) {}
  Precision(DType dtype, WeightFormat weights) : dtype(dtype), weights(weights) {}

  DType dtype;           // of the embedding table
  WeightFormat weights;  // of the matrices

  // Of the KV cache: that of the embedding table, except that float16 has a cache of floats, since
  // neither its range nor its precision may shrink.
  DType kv_dtype() const { return dtype == DType::kF16 ? DType::kF32 : dtype; }
};

// Memory of a device that host threads cannot write to: they read rows into staging memory, from
// where they are copied. Owned by one thread, but staging, each piece of which one thread fills.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  virtual ~DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // n_bytes of the device, zero, 256-byte aligned, and n_staging pieces of staging memory.
  // RESOURCE_EXHAUSTED when there is not so much.
  virtual absl::Status Allocate(int64_t n_bytes, int n_staging, int64_t staging_bytes) = 0;
  virtual uint8_t* data() const = 0;
  virtual uint8_t* staging(int i) = 0;

  // Copies n_groups groups that lie one behind another in staging(i) to the device, where they
  // begin at `to` and every stride_bytes behind it.
  virtual void Store(int i, uint8_t* to, int64_t n_groups, int64_t group_bytes,
                     int64_t stride_bytes) = 0;
  // Returns when all copies are done: staging memory may be filled again.
  virtual void Wait() = 0;
  // Nothing more will be staged.
  virtual void FreeStaging() = 0;
};

// Norm gains are float whatever the precision of the matrices: they are 1/dim of the bytes.
struct LayerWeights {
  Weight attention_norm;  // [1, dim]
  PackedWeight wqkv;      // [(local_n_heads + 2 * local_n_kv_heads) * head_dim, dim]
  PackedWeight wo;        // [dim, local_n_heads * head_dim], a column slice
  Weight ffn_norm;        // [1, dim]
  PackedWeight w13;       // [2 * local_hidden_dim, dim]: gate rows, then up rows
  PackedWeight w2;        // [dim, local_hidden_dim], a column slice
};

struct LoadOptions {
  // Called by the loading thread now and then, the last time with done = total.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  // Tells the source of every slice that was read that it will not be needed again: for weights
  // that fill so much of the memory that the files' pages would be in their way.
  bool drops_what_was_read = false;
  // When it becomes true, Load returns CANCELLED within one chunk (4 MiB a thread).
  const std::atomic<bool>* cancelled = nullptr;
};

// Immutable after Load. Survives epochs: a new group under the same shape uses it again.
class RankWeights {
 public:
  // Reads the rank's share of `source` on the threads of `device` and packs its matrices.
  // INVALID_ARGUMENT when the model has heads larger than the kernels take; RESOURCE_EXHAUSTED when
  // memory is short; CANCELLED; errors of the source, with the tensor named. Every element is
  // written exactly once (CHECK).
  // With `memory` the weights lie there, as a CudaDevice's operations take them: matrices by rows,
  // gate and up rows taking turns. They must be bf16.
  static absl::StatusOr<std::unique_ptr<RankWeights>> Load(
      const WeightSource& source, const RankShape& shape, const Precision& precision,
      CpuDevice& device, const LoadOptions& options = {},
      std::unique_ptr<DeviceMemory> memory = nullptr);

  // The shapes of such weights without the memory, for plans: all data are null.
  static std::unique_ptr<const RankWeights> Shapes(const ModelConfig& config,
                                                   const RankShape& shape,
                                                   const Precision& precision);

  RankWeights(const RankWeights&) = delete;
  RankWeights& operator=(const RankWeights&) = delete;

  const ModelConfig& config() const { return config_; }
  const RankShape& shape() const { return shape_; }
  DType kv_dtype() const { return precision_.kv_dtype(); }
  const Precision& precision() const { return precision_; }
  int64_t bytes() const { return total_bytes_; }
  // Of what was read, as it is stored.
  const WeightDigests& digests() const { return digests_; }

  const Weight& tok_embeddings() const { return tok_embeddings_; }  // [vocab_size, dim], stage 0
  absl::Span<const LayerWeights> layers() const { return layers_; }
  const Weight& norm() const { return norm_; }  // [1, dim], last stage
  // [local_vocab_size, dim], last stage; rows from vocab_end - vocab_begin on are zero.
  const PackedWeight& output() const { return output_; }

 private:
  friend int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape,
                                 const Precision& precision, bool by_rows);

  // A rectangle of one tensor and where it goes: rows of a packed matrix, or else of a plain one.
  struct Piece {
    TensorId id;
    TensorSlice slice;
    PackedWeight* packed = nullptr;
    Weight* plain = nullptr;
    int64_t row_begin = 0;  // of the matrix
  };

  // by_rows: matrices as a CudaDevice takes them.
  RankWeights(const ModelConfig& config, const RankShape& shape, const Precision& precision,
              bool by_rows);

  void PlanLayer(int64_t layer, LayerWeights* weights);
  void PlanPlain(Weight* weight, DType dtype, TensorId id, const TensorSlice& slice);
  void PlanPacked(PackedWeight* weight, absl::Span<const Piece> parts, int64_t n_rows,
                  int64_t n_leaves);
  // Leaves of a matrix that tensor parallelism cuts along its n_cols columns (as many as the whole
  // matrix has in this rank's columns), and of one that has all its columns on every rank.
  int64_t CutLeafCount(int64_t n_cols) const;
  int64_t WholeLeafCount(int64_t n_cols) const;
  int64_t Reserve(int64_t n_bytes);
  void PlaceWeights();
  std::vector<Piece> Chunks() const;
  int64_t n_elements() const;
  // Both add what they read to *digest.
  absl::Status ReadChunk(const WeightSource& source, const Piece& chunk,
                         std::vector<uint8_t>* staging, DigestSum* digest);
  absl::Status StageChunk(const WeightSource& source, const Piece& chunk, int i, DigestSum* digest);
  void StoreChunk(const Piece& chunk, int i);
  absl::Status ReadPieces(const WeightSource& source, CpuDevice& device,
                          const LoadOptions& options);

  const ModelConfig config_;
  const RankShape shape_;
  const Precision precision_;
  const bool by_rows_;

  std::vector<Piece> pieces_;
  // Where each weight begins in memory_.
  std::vector<std::pair<Weight*, int64_t>> plain_offsets_;
  std::vector<std::pair<PackedWeight*, int64_t>> packed_offsets_;
  WeightDigests digests_;
  int64_t total_bytes_ = 0;  // with the gaps that align each weight
  AlignedBuffer memory_;
  std::unique_ptr<DeviceMemory> device_memory_;  // in place of memory_

  Weight tok_embeddings_;
  std::vector<LayerWeights> layers_;
  Weight norm_;
  PackedWeight output_;
};

// What RankWeights::Load of this shape allocates; by_rows: in a device's memory.
int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape,
                        const Precision& precision, bool by_rows = false);

}  // namespace bora
