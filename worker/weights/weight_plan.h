// The plan of a rank's weights, as data: which weights the rank has, which parts of the
// checkpoint's tensors they consist of, and where they lie in its memory. It is computed from the
// model's config and the rank's shape, before anything is read. Readers fill memory by the plan
// (host_weights.h, device_weights.h), RankWeights shows that memory to the forward pass, and
// planners of memory use the plan's total_bytes.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "kernels/device_views.h"
#include "kernels/packed_weight.h"
#include "model/checkpoint/tensor_id.h"
#include "model/checkpoint/weights_source.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "worker/weights/precision.h"

namespace bora {

// How a kind of device wants matrices in memory. The plans for two kinds of devices differ in
// nothing else. A plain value.
struct MatrixLayout {
  WeightLayout matrices = WeightLayout::kPanels;  // all matrices except w13
  WeightLayout gate_up = WeightLayout::kPanels;   // w13
  // Returns into how many leaves a matrix product cuts its sum over n_cols columns, each leaf with
  // at least min_leaf_cols columns (kernels/packed_weight.h).
  int64_t (*leaf_count)(int64_t n_cols, int64_t min_leaf_cols) = LeafCount;
};

// For a CpuDevice.
inline constexpr MatrixLayout kCpuMatrices;
// For a CudaDevice.
inline constexpr MatrixLayout kCudaMatrices = {.matrices = WeightLayout::kRows,
                                               .gate_up = WeightLayout::kGatedRows,
                                               .leaf_count = CudaLeafCount};

// Which field of RankWeights (worker/weights/rank_weights.h) a planned weight is.
enum class WeightField {
  kTokEmbeddings,
  kAttentionNorm,
  kWqkv,
  kWo,
  kFfnNorm,
  kW13,
  kW2,
  kNorm,
  kOutput
};

// A rectangle of one tensor of the checkpoint, and the rows of a weight that it fills. A plain
// value.
struct WeightPiece {
  TensorId id;
  TensorSlice slice;      // rows and columns of the tensor
  int64_t row_begin = 0;  // it fills rows [row_begin, row_begin + slice.n_rows()) of the weight
};

// One weight of a rank. Its pieces are stacked from row 0 on without gaps; rows behind the last
// piece are padding and zero. A plain value.
struct PlannedWeight {
  WeightField field = WeightField::kTokEmbeddings;
  int64_t layer = kNoLayer;                 // number in the whole model; kNoLayer if in no layer
  std::variant<Weight, PackedWeight> form;  // type, layout and shape; data is null
  int64_t begin_bytes = 0;                  // offset in the rank's memory; a multiple of 256
  std::vector<WeightPiece> pieces;

  std::string name() const;    // for messages: "layers.3.wqkv"
  int64_t n_rows() const;      // padding included
  int64_t n_cols() const;      // as in the model; packing may add columns of padding
  int64_t n_bytes() const;     // of the rank's memory
  int64_t n_elements() const;  // of all pieces, without padding
  // Element type in which rows are read from the source, and the bytes of one such row. Packing may
  // then convert the elements to another format.
  DType read_dtype() const;
  int64_t read_row_bytes() const;
};

// All weights of one rank. A plain value; not changed after PlanRankWeights has made it.
struct WeightPlan {
  ModelConfig config;
  RankShape shape;
  Precision precision = DType::kF32;
  std::vector<PlannedWeight> weights;  // ascending by begin_bytes
  int64_t total_bytes = 0;             // of memory, with the gaps that align each weight

  int64_t n_elements() const;  // of all weights, without padding
};

// Returns the plan for a rank of this shape. Column-parallel projections (wq, wk, wv, w1, w3,
// output) hold the rank's output rows, row-parallel ones (wo, w2) its input columns. Ranks that
// attend to the same KV head each hold a copy of its rows. A pure function.
WeightPlan PlanRankWeights(const ModelConfig& config, const RankShape& shape,
                           const Precision& precision, const MatrixLayout& layout);

// Returns the bytes of memory that the weights of a rank of this shape take: total_bytes of its
// plan. A pure function.
int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape,
                        const Precision& precision, const MatrixLayout& layout = kCpuMatrices);

// A part of a piece that is read with one call. A plain value.
struct WeightChunk {
  const PlannedWeight* weight = nullptr;  // in the plan
  WeightPiece piece;                      // cut to the rows of the chunk

  // Bytes that reading the chunk writes to memory, before packing.
  int64_t n_read_bytes() const { return piece.slice.n_rows() * weight->read_row_bytes(); }
};

// Cuts all pieces of the plan into chunks of whole rows. A chunk has at most 4 MiB, unless a single
// panel (kPanelRows rows) has more. A chunk ends at the end of a panel, unless its piece ends
// earlier. REQUIRES: the plan outlives the chunks.
std::vector<WeightChunk> CutIntoChunks(const WeightPlan& plan);

// Returns the greatest n_read_bytes() of the chunks; 0 without chunks.
int64_t MaxReadBytes(const std::vector<WeightChunk>& chunks);

}  // namespace bora
