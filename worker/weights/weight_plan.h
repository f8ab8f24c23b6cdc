// Which weights a rank has and how they lie in its memory, as data: computed from the model and the
// rank's share of it, before anything is read. Readers fill memory by the plan (host_weights.h,
// device_weights.h), RankWeights shows that memory to the forward pass, and planners of memory take
// the plan's total.
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

// How matrices lie for a device's products. The plans of two devices differ in nothing else.
struct MatrixLayout {
  WeightLayout matrices = WeightLayout::kPanels;  // all matrices except w13
  WeightLayout gate_up = WeightLayout::kPanels;   // w13
  // The number of leaves of a sum over n_cols columns, each of at least min_leaf_cols.
  int64_t (*leaf_count)(int64_t n_cols, int64_t min_leaf_cols) = LeafCount;
};

// For a CpuDevice.
inline constexpr MatrixLayout kCpuMatrices;
// For a CudaDevice.
inline constexpr MatrixLayout kCudaMatrices = {.matrices = WeightLayout::kRows,
                                               .gate_up = WeightLayout::kGatedRows,
                                               .leaf_count = CudaLeafCount};

// The fields of RankWeights (worker/weights/rank_weights.h).
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

// A rectangle of one tensor, and the rows of a weight that it fills.
struct WeightPiece {
  TensorId id;
  TensorSlice slice;
  int64_t row_begin = 0;  // of the weight: rows [row_begin, row_begin + slice.n_rows())
};

// One weight. Its pieces follow each other from row 0 on; rows behind them are padding, zeros.
struct PlannedWeight {
  WeightField field = WeightField::kTokEmbeddings;
  int64_t layer = kNoLayer;                 // of the model; kNoLayer outside layers
  std::variant<Weight, PackedWeight> form;  // type, layout and shape; the data are null
  int64_t begin_bytes = 0;                  // its offset in the rank's memory; a multiple of 256
  std::vector<WeightPiece> pieces;

  std::string name() const;    // "layers.3.wqkv"
  int64_t n_rows() const;      // with padding
  int64_t n_cols() const;      // as in the model: packing may add columns
  int64_t n_bytes() const;     // in memory
  int64_t n_elements() const;  // of the pieces, without padding
  // Type of the elements that are read from the source, and bytes of a row of them. Packing may
  // convert them.
  DType read_dtype() const;
  int64_t read_row_bytes() const;
};

// A plain value; immutable once PlanRankWeights has made it.
struct WeightPlan {
  ModelConfig config;
  RankShape shape;
  Precision precision = DType::kF32;
  std::vector<PlannedWeight> weights;  // ascending by begin_bytes
  int64_t total_bytes = 0;             // with the gaps that align each weight

  int64_t n_elements() const;  // of all pieces
};

// The weights of a rank of this shape. A pure function. Column-parallel projections hold the rank's
// output rows, row-parallel ones its input columns; ranks that attend to the same KV head hold
// copies of its rows.
WeightPlan PlanRankWeights(const ModelConfig& config, const RankShape& shape,
                           const Precision& precision, const MatrixLayout& layout);

// Bytes of memory that the weights of such a rank take: total_bytes of its plan.
int64_t RankWeightBytes(const ModelConfig& config, const RankShape& shape,
                        const Precision& precision, const MatrixLayout& layout = kCpuMatrices);

// A part of a piece that is read at once.
struct WeightChunk {
  const PlannedWeight* weight = nullptr;  // of the plan
  WeightPiece piece;

  int64_t n_read_bytes() const { return piece.slice.n_rows() * weight->read_row_bytes(); }
};

// All pieces of the plan, cut into whole rows: at most 4 MiB each, unless one panel is more. A
// chunk ends where a panel does, except where its piece ends before. REQUIRES: the plan outlives
// the chunks.
std::vector<WeightChunk> CutIntoChunks(const WeightPlan& plan);

// The most bytes that one of the chunks reads.
int64_t MaxReadBytes(const std::vector<WeightChunk>& chunks);

}  // namespace bora
