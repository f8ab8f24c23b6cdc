// The weights of one rank as the forward pass reads them: its heads and FFN columns only, the
// query, key and value projections fused into one matrix, gate and up into another. This is the
// model: every field with its shape.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kernels/device_views.h"
#include "kernels/packed_weight.h"
#include "model/checkpoint/weight_digest.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "worker/weights/precision.h"
#include "worker/weights/weight_plan.h"

namespace bora {

// Norm gains are float whatever the precision of the matrices: they are 1/dim of the bytes.
struct LayerWeights {
  Weight attention_norm;  // [1, dim]
  PackedWeight wqkv;      // [(local_n_heads + 2 * local_n_kv_heads) * head_dim, dim]
  PackedWeight wo;        // [dim, local_n_heads * head_dim], a column slice
  Weight ffn_norm;        // [1, dim]
  PackedWeight w13;       // [2 * local_hidden_dim, dim]: gate rows, then up rows
  PackedWeight w2;        // [dim, local_hidden_dim], a column slice
};

// The memory that a rank's weights lie in, of the host or of a device.
class WeightMemory {
 public:
  WeightMemory() = default;
  virtual ~WeightMemory() = default;
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;

  virtual uint8_t* data() const = 0;
};

// Immutable. Survives epochs: a new group under the same shape uses it again.
class RankWeights {
 public:
  // The weights of `plan` that were read into `memory`, which has plan.total_bytes, with the
  // digests of the bytes that were read. LoadHostWeights and LoadDeviceWeights make it.
  RankWeights(WeightPlan plan, std::unique_ptr<const WeightMemory> memory,
              const WeightDigests& digests);
  RankWeights(const RankWeights&) = delete;
  RankWeights& operator=(const RankWeights&) = delete;

  const Weight& tok_embeddings() const { return tok_embeddings_; }   // [vocab_size, dim], stage 0
  absl::Span<const LayerWeights> layers() const { return layers_; }  // of this stage
  const Weight& norm() const { return norm_; }                       // [1, dim], last stage
  // [local_vocab_size, dim], last stage; rows from vocab_end - vocab_begin on are zero.
  const PackedWeight& output() const { return output_; }

  const WeightPlan& plan() const { return plan_; }
  const ModelConfig& config() const { return plan_.config; }
  const RankShape& shape() const { return plan_.shape; }
  const Precision& precision() const { return plan_.precision; }
  DType kv_dtype() const { return plan_.precision.kv_dtype(); }
  int64_t bytes() const { return plan_.total_bytes; }
  // Digests of the bytes that were read, as they are stored.
  const WeightDigests& digests() const { return digests_; }

 private:
  Weight* PlainField(WeightField field, int64_t layer);
  PackedWeight* MatrixField(WeightField field, int64_t layer);

  const WeightPlan plan_;
  const std::unique_ptr<const WeightMemory> memory_;
  const WeightDigests digests_;

  Weight tok_embeddings_;
  std::vector<LayerWeights> layers_;
  Weight norm_;
  PackedWeight output_;
};

}  // namespace bora
