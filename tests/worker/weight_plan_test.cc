#include "worker/weights/weight_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/check.h"
#include "base/int_math.h"
#include "tests/worker/tiny_model.h"

namespace bora {
namespace {

RankShape TinyShape(int tp_size, int pp_size, int stage, int tp_rank) {
  const absl::StatusOr<Partition> partition = MakePartition(TinyConfig(), tp_size, pp_size);
  CHECK_OK(partition.status());
  return ShapeOfRank(TinyConfig(), *partition, stage, tp_rank);
}

const PlannedWeight& Find(const WeightPlan& plan, const std::string& name) {
  for (const PlannedWeight& weight : plan.weights) {
    if (weight.name() == name) return weight;
  }
  CHECK(false) << name << " is not planned";
  return plan.weights[0];
}

// 4 layers of 64 columns, 8 heads and 4 KV heads of 16, 96 hidden columns, 257 words.
TEST(WeightPlanTest, ListsTheWeightsOfAStageInOrder) {
  const WeightPlan plan =
      PlanRankWeights(TinyConfig(), TinyShape(1, 4, 0, 0), DType::kF32, kCpuMatrices);
  std::vector<std::string> names;
  for (const PlannedWeight& weight : plan.weights) names.push_back(weight.name());
  EXPECT_EQ(names, (std::vector<std::string>{"tok_embeddings", "layers.0.attention_norm",
                                             "layers.0.wqkv", "layers.0.wo", "layers.0.ffn_norm",
                                             "layers.0.w13", "layers.0.w2"}));
  const WeightPlan last =
      PlanRankWeights(TinyConfig(), TinyShape(1, 4, 3, 0), DType::kF32, kCpuMatrices);
  EXPECT_EQ(last.weights.front().name(), "layers.3.attention_norm");
  EXPECT_EQ(last.weights.back().name(), "output");
}

TEST(WeightPlanTest, StacksTheProjectionsOfOneInput) {
  const RankShape shape = TinyShape(2, 1, 0, 1);
  const WeightPlan plan = PlanRankWeights(TinyConfig(), shape, DType::kF32, kCpuMatrices);
  const PlannedWeight& wqkv = Find(plan, "layers.2.wqkv");
  const auto& matrix = std::get<PackedWeight>(wqkv.form);
  EXPECT_EQ(matrix.n_rows, (4 + 2 * 2) * 16);
  EXPECT_EQ(matrix.n_cols, 64);
  EXPECT_EQ(matrix.data, nullptr);
  ASSERT_EQ(wqkv.pieces.size(), 3u);
  EXPECT_EQ(wqkv.pieces[0].id, (TensorId{TensorKind::kWq, 2}));
  EXPECT_EQ(wqkv.pieces[1].id, (TensorId{TensorKind::kWk, 2}));
  EXPECT_EQ(wqkv.pieces[2].id, (TensorId{TensorKind::kWv, 2}));
  EXPECT_EQ(wqkv.pieces[1].row_begin, 64);
  EXPECT_EQ(wqkv.pieces[2].row_begin, 96);
  EXPECT_EQ(wqkv.pieces[2].slice.row_begin, 32);  // the second half of four heads of 16
}

TEST(WeightPlanTest, PlacesWeightsOneBehindAnother) {
  for (const MatrixLayout& layout : {kCpuMatrices, kCudaMatrices}) {
    const WeightPlan plan =
        PlanRankWeights(TinyConfig(), TinyShape(4, 2, 1, 3), DType::kBf16, layout);
    int64_t end_bytes = 0;
    for (const PlannedWeight& weight : plan.weights) {
      EXPECT_EQ(weight.begin_bytes, end_bytes) << weight.name();
      end_bytes = RoundUp(end_bytes + weight.n_bytes(), 256);
    }
    EXPECT_EQ(plan.total_bytes, end_bytes);
  }
}

// The devices' plans differ in the matrices' layout and in nothing that is read.
TEST(WeightPlanTest, DevicesDifferInTheirMatricesOnly) {
  const RankShape shape = TinyShape(2, 1, 0, 0);
  const WeightPlan cpu = PlanRankWeights(TinyConfig(), shape, DType::kBf16, kCpuMatrices);
  const WeightPlan cuda = PlanRankWeights(TinyConfig(), shape, DType::kBf16, kCudaMatrices);
  ASSERT_EQ(cpu.weights.size(), cuda.weights.size());
  EXPECT_EQ(cpu.n_elements(), cuda.n_elements());
  for (size_t i = 0; i < cpu.weights.size(); ++i) {
    const PlannedWeight& a = cpu.weights[i];
    const PlannedWeight& b = cuda.weights[i];
    EXPECT_EQ(a.name(), b.name());
    EXPECT_EQ(a.read_dtype(), b.read_dtype());
    EXPECT_EQ(a.n_elements(), b.n_elements());
    const auto* const matrix = std::get_if<PackedWeight>(&a.form);
    ASSERT_EQ(matrix != nullptr, std::holds_alternative<PackedWeight>(b.form)) << a.name();
    if (matrix == nullptr) continue;
    EXPECT_EQ(matrix->layout, WeightLayout::kPanels);
    EXPECT_EQ(std::get<PackedWeight>(b.form).layout,
              a.field == WeightField::kW13 ? WeightLayout::kGatedRows : WeightLayout::kRows);
  }
}

// Each format is read as the type that it is packed from.
TEST(WeightPlanTest, MatricesAreReadAsTheirFormatIsPackedFrom) {
  for (const WeightFormatInfo& info : kWeightFormats) {
    const WeightPlan plan = PlanRankWeights(TinyConfig(), TinyShape(1, 1, 0, 0),
                                            Precision(DType::kBf16, info.format), kCpuMatrices);
    EXPECT_EQ(Find(plan, "layers.0.wo").read_dtype(), info.rows) << info.name;
    EXPECT_EQ(Find(plan, "tok_embeddings").read_dtype(), DType::kBf16);
    EXPECT_EQ(Find(plan, "norm").read_dtype(), DType::kF32);
  }
}

// 257 rows over 4 ranks: the last has 62 of 65.
TEST(WeightPlanTest, TheLastRanksHeadHasPadding) {
  const WeightPlan plan =
      PlanRankWeights(TinyConfig(), TinyShape(4, 1, 0, 3), DType::kF32, kCpuMatrices);
  const PlannedWeight& output = Find(plan, "output");
  EXPECT_EQ(output.n_rows(), 65);
  EXPECT_EQ(output.n_elements(), 62 * 64);
}

TEST(WeightPlanTest, RanksReadEveryElementOnce) {
  int64_t n_elements = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const WeightPlan plan =
        PlanRankWeights(TinyConfig(), TinyShape(1, 4, rank, 0), DType::kF32, kCpuMatrices);
    n_elements += plan.n_elements();
  }
  EXPECT_EQ(n_elements, ParameterCount(TinyConfig()));
}

// A model whose pieces do not fit into one chunk: w1 and w3 have 3000 rows of 4096 floats, so that
// the up projection begins in the middle of a panel.
TEST(WeightPlanTest, ChunksAreWholeRowsThatEndWherePanelsDo) {
  ModelConfig config = TinyConfig();
  config.dim = 4096;
  config.hidden_dim = 3000;
  const Partition partition = {1, 1, {{0, 4}}};
  const WeightPlan plan =
      PlanRankWeights(config, ShapeOfRank(config, partition, 0, 0), DType::kF32, kCpuMatrices);
  std::map<std::string, int64_t> next_row;
  for (const WeightChunk& chunk : CutIntoChunks(plan)) {
    const std::string name = chunk.weight->name();
    const int64_t end = chunk.piece.row_begin + chunk.piece.slice.n_rows();
    EXPECT_EQ(chunk.piece.row_begin, next_row[name]) << name;
    EXPECT_LE(chunk.n_read_bytes(), int64_t{4} << 20) << name;
    bool ends_a_piece = false;
    for (const WeightPiece& piece : chunk.weight->pieces) {
      ends_a_piece = ends_a_piece || end == piece.row_begin + piece.slice.n_rows();
    }
    EXPECT_TRUE(end % kPanelRows == 0 || ends_a_piece) << name << " ends at row " << end;
    next_row[name] = end;
  }
  for (const PlannedWeight& weight : plan.weights) {
    EXPECT_EQ(next_row[weight.name()], weight.n_rows()) << weight.name();
  }
}

}  // namespace
}  // namespace bora
