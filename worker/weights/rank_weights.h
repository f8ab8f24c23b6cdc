// The weights of one rank as the forward pass reads them, every field with its shape. They are the
// rank's part of the model: the layers of its pipeline stage, and of each layer its heads and FFN
// columns. The query, key and value projections are fused into one matrix, gate and up into
// another.
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

// One layer; a plain value whose fields are views. Norm gains are float whatever the precision of
// the matrices, since they are only about 1/dim of the bytes.
struct LayerWeights {
  Weight attention_norm;  // [1, dim]
  PackedWeight wqkv;      // [(local_n_heads + 2 * local_n_kv_heads) * head_dim, dim]
  PackedWeight wo;        // [dim, local_n_heads * head_dim], a column slice
  Weight ffn_norm;        // [1, dim]
  PackedWeight w13;       // [2 * local_hidden_dim, dim]: gate rows, then up rows
  PackedWeight w2;        // [dim, local_hidden_dim], a column slice
};

// Owns the memory of a rank's weights, on the host or on a device.
class WeightMemory {
 public:
  WeightMemory() = default;
  virtual ~WeightMemory() = default;
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;

  // The beginning of the memory; for memory of a device an address that only the device may use.
  virtual uint8_t* data() const = 0;
};

// All weights of one rank, and the memory that holds them. Immutable after construction. They
// outlive epochs: a new group in which the rank has the same part of the model uses them again.
class RankWeights {
 public:
  // The weights of `plan`, which have been read into `memory` (of plan.total_bytes bytes).
  // `digests` are of the bytes that were read. For LoadHostWeights and LoadDeviceWeights.
  RankWeights(WeightPlan plan, std::unique_ptr<const WeightMemory> memory,
              const WeightDigests& digests);
  RankWeights(const RankWeights&) = delete;
  RankWeights& operator=(const RankWeights&) = delete;

  // The embedding table [vocab_size, dim]; without data except on the first stage.
  const Weight& tok_embeddings() const { return tok_embeddings_; }
  // The layers of this stage: [shape().layers.n_layers()].
  absl::Span<const LayerWeights> layers() const { return layers_; }
  // The gain of the final norm [1, dim]; without data except on the last stage.
  const Weight& norm() const { return norm_; }
  // The LM head [local_vocab_size, dim]: the rows of tokens [vocab_begin, vocab_end), then padding
  // rows, which are zero. Without data except on the last stage.
  const PackedWeight& output() const { return output_; }

  const WeightPlan& plan() const { return plan_; }
  const ModelConfig& config() const { return plan_.config; }
  const RankShape& shape() const { return plan_.shape; }
  const Precision& precision() const { return plan_.precision; }
  DType kv_dtype() const { return plan_.precision.kv_dtype(); }
  // Bytes of memory that the weights take, with the gaps between them.
  int64_t bytes() const { return plan_.total_bytes; }
  // Digests of the bytes that were read, in the form in which the source stores them; 0 for dummy
  // weights.
  const WeightDigests& digests() const { return digests_; }

 private:
  // The member for `field`, of layer `layer` of the model if it belongs to one.
  // REQUIRES: the field is no matrix (PlainField), or a matrix (MatrixField) (CHECK).
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
