// CUDA's matrix products against float64, and that their bits depend on the row and the weight
// alone.
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/runtime/matrix_library.h"
#include "kernels/silu_mul.h"
#include "tests/cuda/cuda_testing.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

class CudaMatMulTest : public CudaTest {};
INSTANTIATE_TEST_SUITE_P(, CudaMatMulTest, testing::ValuesIn(CudaRunModes()), CudaRunModeName);

struct Shape {
  int64_t m = 0;
  int64_t n_rows = 0;
  int64_t leaf_cols = 0;
  int64_t n_leaves = 0;
  int64_t n_cols() const { return leaf_cols * n_leaves; }
};

// Not a multiple of a tile in any direction; leaves that end inside a stage.
constexpr Shape kShapes[] = {{1, 1, 16, 1},    {2, 15, 48, 2},  {7, 16, 80, 4},   {8, 40, 64, 4},
                             {9, 129, 48, 4},  {16, 16, 80, 2}, {17, 40, 208, 1}, {33, 15, 64, 4},
                             {64, 129, 48, 2}, {65, 40, 16, 4}, {130, 129, 80, 1}};

// The rows in the order of the layout. rows: for kGatedRows the gate's, then the up projection's.
std::vector<Bf16> PackedRows(const PackedWeight& weight, const std::vector<Bf16>& rows) {
  if (weight.layout == WeightLayout::kRows) return rows;
  std::vector<Bf16> data(rows.size());
  const int64_t n_gates = weight.n_rows / 2;
  for (int64_t row = 0; row < weight.n_rows; ++row) {
    const int64_t to = row < n_gates ? GatedRow(row) : GatedRow(row - n_gates) + kGatedGroupRows;
    std::copy_n(rows.begin() + row * weight.n_cols, weight.n_cols,
                data.begin() + to * weight.n_cols);
  }
  return data;
}

// A weight, as [n_rows, n_cols] and packed on the device, and x, [m, n_cols].
struct Problem {
  Problem(const Shape& shape, std::vector<Bf16> x_values, std::vector<Bf16> w_values,
          WeightLayout layout)
      : weight{.format = WeightFormat::kBf16,
               .layout = layout,
               .n_rows = shape.n_rows,
               .n_cols = shape.n_cols(),
               .n_leaves = shape.n_leaves},
        x(std::move(x_values)),
        w(std::move(w_values)),
        x_on_device(x),
        w_on_device(PackedRows(weight, w)) {
    weight.data = w_on_device.data();
  }
  explicit Problem(const Shape& shape, WeightLayout layout = WeightLayout::kRows)
      : Problem(shape, ToBf16s(RandomFloats(shape.m * shape.n_cols(), 1)),
                ToBf16s(RandomFloats(shape.n_rows * shape.n_cols(), 2)), layout) {}

  PackedWeight weight;
  std::vector<Bf16> x, w;
  DeviceArray<Bf16> x_on_device, w_on_device;
};

std::vector<double> ToDoubles(const std::vector<Bf16>& values) {
  std::vector<double> out;
  for (const Bf16 value : values) out.push_back(ToFloat(value));
  return out;
}

// Every plan that can multiply a weight of so many leaves.
std::vector<MatMulPlan> AllPlans(int64_t n_leaves) {
  std::vector<MatMulPlan> plans;
  for (int tile = 0; tile < kNMatMulTiles; ++tile) {
    const bool all_leaves = kMatMulTiles[tile].n_leaf_warps > 1;
    if (all_leaves && n_leaves != kMaxCudaLeaves) continue;
    for (int n_splits = 1; n_splits <= (all_leaves ? 1 : n_leaves); n_splits *= 2) {
      plans.push_back({static_cast<MatMulTileIdx>(tile), n_splits});
    }
  }
  return plans;
}

std::string NameOf(const MatMulPlan& plan) {
  return "tile " + std::to_string(plan.tile) + ", splits " + std::to_string(plan.n_splits);
}

// y, [m, n_rows], of m rows of x from first_row on.
std::vector<float> Multiply(CudaDevice& device, const MatMulPlan& plan, const Problem& problem,
                            int64_t first_row, int64_t m) {
  DeviceArray<float> y(m * problem.weight.n_rows);
  MatMulByPlan(device, plan, problem.x_on_device.data() + first_row * problem.weight.n_cols, m,
               problem.weight, y.data());
  return y.ToHost();
}

bool SameBits(const std::vector<float>& a, const float* b) {
  return std::memcmp(a.data(), b, a.size() * sizeof(float)) == 0;
}

// The bound of matmul.h relative to the magnitudes' sum.
double Roundings(const PackedWeight& weight) {
  return (2 * static_cast<double>(weight.leaf_cols()) + 3) * 0x1p-23;
}

TEST_P(CudaMatMulTest, AgreesWithReference) {
  WorstRatio worst("cuda_matmul");
  for (const Shape& shape : kShapes) {
    const Problem problem(shape);
    std::vector<double> magnitude;
    const std::vector<double> want = reference::MatMul(
        ToDoubles(problem.x), shape.m, ToDoubles(problem.w), shape.n_rows, &magnitude);
    const auto check = [&](const std::vector<float>& got) {
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < want.size(); ++i) {
        worst.Add(got[i], want[i], Roundings(problem.weight) * magnitude[i]);
      }
    };
    for (const MatMulPlan& plan : AllPlans(shape.n_leaves)) {
      CudaDevice& device = Device(PlanScratchBytes(plan, shape.m, shape.n_rows));
      check(Multiply(device, plan, problem, 0, shape.m));
    }
    // As planned.
    CudaDevice& device = Device(MatMulScratchBytes(Device(), shape.m, problem.weight));
    DeviceArray<float> y(shape.m * shape.n_rows);
    MatMul(device, problem.x_on_device.data(), shape.m, problem.weight, y.data());
    check(y.ToHost());
  }
}

// Sums of integers below 2^24 have no rounding: an element of the wrong place shows, however small.
TEST_P(CudaMatMulTest, IntegersAreExact) {
  const Shape shape = {19, 41, 208, 4};
  const auto integers = [](int64_t n, uint64_t seed) {
    std::vector<float> values = RandomFloats(n, seed);
    for (float& value : values) value = std::floor(8 * value);
    return ToBf16s(values);
  };
  const Problem problem(shape, integers(shape.m * shape.n_cols(), 1),
                        integers(shape.n_rows * shape.n_cols(), 2), WeightLayout::kRows);
  const std::vector<double> want =
      reference::MatMul(ToDoubles(problem.x), shape.m, ToDoubles(problem.w), shape.n_rows);
  const std::vector<float> exact(want.begin(), want.end());
  for (const MatMulPlan& plan : AllPlans(shape.n_leaves)) {
    CudaDevice& device = Device(PlanScratchBytes(plan, shape.m, shape.n_rows));
    EXPECT_EQ(Multiply(device, plan, problem, 0, shape.m), exact) << NameOf(plan);
  }
}

TEST_P(CudaMatMulTest, BitsDependOnTheRowAndTheWeightAlone) {
  for (int64_t n_leaves : {1, 4}) {
    const Shape shape = {130, 40, 48, n_leaves};
    const Problem problem(shape);
    CudaDevice& device = Device(PlanScratchBytes({kTall16, 4}, shape.m, shape.n_rows));
    const std::vector<float> want = Multiply(device, {kTall16, 1}, problem, 0, shape.m);
    for (const MatMulPlan& plan : AllPlans(n_leaves)) {
      for (int64_t m : {1, 2, 8, 17, 65, 130}) {
        const int64_t first_row = (shape.m - m) / 2;
        EXPECT_TRUE(SameBits(Multiply(device, plan, problem, first_row, m),
                             &want[first_row * shape.n_rows]))
            << NameOf(plan) << ", " << m << " rows";
      }
    }
  }
}

// The order that matmul.h promises, but for that inside of an instruction: leaves that are
// multiplied alone add up to the whole.
TEST_P(CudaMatMulTest, LeavesAddUpAsABalancedTree) {
  const Shape shape = {3, 33, 80, 4};
  const Problem problem(shape);
  std::vector<std::vector<float>> leaves;
  for (int64_t leaf = 0; leaf < shape.n_leaves; ++leaf) {
    const auto columns = [&](const std::vector<Bf16>& rows) {
      std::vector<Bf16> part;
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto col = static_cast<int64_t>(i) % shape.n_cols();
        if (col / shape.leaf_cols == leaf) part.push_back(rows[i]);
      }
      return part;
    };
    const Shape leaf_shape = {shape.m, shape.n_rows, shape.leaf_cols, 1};
    const Problem part(leaf_shape, columns(problem.x), columns(problem.w), WeightLayout::kRows);
    leaves.push_back(Multiply(Device(), {kTall16, 1}, part, 0, shape.m));
  }
  const std::vector<float> got = Multiply(Device(), {kNarrow8, 1}, problem, 0, shape.m);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i], (leaves[0][i] + leaves[1][i]) + (leaves[2][i] + leaves[3][i]));
  }
}

TEST_P(CudaMatMulTest, NonFiniteRowStaysAlone) {
  const Shape shape = {19, 40, 48, 4};
  const Problem clean(shape);
  for (const float bad : {NAN, INFINITY}) {
    std::vector<Bf16> x = clean.x;
    for (int64_t i = 0; i < shape.m * shape.n_cols(); ++i) {
      if (i / shape.n_cols() % 3 == 1) x[i] = ToBf16(bad);
    }
    const Problem problem(shape, x, clean.w, WeightLayout::kRows);
    for (const MatMulPlan& plan : AllPlans(shape.n_leaves)) {
      CudaDevice& device = Device(PlanScratchBytes(plan, shape.m, shape.n_rows));
      const std::vector<float> want = Multiply(device, plan, clean, 0, shape.m);
      const std::vector<float> got = Multiply(device, plan, problem, 0, shape.m);
      for (int64_t i = 0; i < shape.m * shape.n_rows; ++i) {
        if (i / shape.n_rows % 3 == 1) {
          ASSERT_FALSE(std::isfinite(got[i])) << NameOf(plan);
        } else {
          ASSERT_EQ(got[i], want[i]) << NameOf(plan);
        }
      }
    }
  }
}

// With e the bound of both products: |silu'| <= 1.1 and |silu(g)| <= |g|; then the activation's own
// error and bf16's rounding.
double GatedTolerance(double gate, double up, double gate_error, double up_error, double want) {
  const double from_products =
      1.1 * gate_error * (std::abs(up) + up_error) + std::abs(gate) * up_error;
  return from_products + (6.5 * kFloatEps + kBf16Eps) * (std::abs(want) + from_products);
}

TEST_P(CudaMatMulTest, GatedProductAgreesWithReference) {
  WorstRatio worst("cuda_matmul_silu_mul");
  for (const Shape& shape :
       {Shape{1, 16, 48, 4}, {9, 48, 80, 4}, {18, 144, 16, 2}, {65, 32, 64, 1}}) {
    const Problem problem(shape, WeightLayout::kGatedRows);
    const double error = Roundings(problem.weight);
    std::vector<double> magnitude;
    const std::vector<double> product = reference::MatMul(
        ToDoubles(problem.x), shape.m, ToDoubles(problem.w), shape.n_rows, &magnitude);
    const int64_t hidden_dim = shape.n_rows / 2;
    std::vector<MatMulPlan> plans = AllPlans(shape.n_leaves);
    plans.push_back(PlanMatMul(shape.m, shape.n_rows, shape.n_leaves, 132));
    for (const MatMulPlan& plan : plans) {
      CudaDevice& device = Device(GatedPlanScratchBytes(plan, shape.m, shape.n_rows));
      DeviceArray<Bf16> hidden(shape.m * hidden_dim);
      MatMulSiluMulByPlan(device, plan, problem.x_on_device.data(), shape.m, problem.weight,
                          hidden.data());
      const std::vector<Bf16> got = hidden.ToHost();
      for (int64_t i = 0; i < shape.m * hidden_dim; ++i) {
        const int64_t gate = i / hidden_dim * shape.n_rows + i % hidden_dim;
        const int64_t up = gate + hidden_dim;
        const double want = reference::SiluMul({product[gate]}, {product[up]})[0];
        worst.Add(ToFloat(got[i]), want,
                  GatedTolerance(product[gate], product[up], error * magnitude[gate],
                                 error * magnitude[up], want));
      }
    }
  }
}

TEST_P(CudaMatMulTest, GatedBitsAreThoseOfMatMulAndSiluMul) {
  const Shape shape = {17, 48, 48, 4};
  const Problem problem(shape, WeightLayout::kGatedRows);
  const int64_t n_hidden = shape.m * shape.n_rows / 2;
  const auto bits = [](const DeviceArray<Bf16>& array) {
    std::vector<uint16_t> bits;
    for (const Bf16 value : array.ToHost()) bits.push_back(value.bits);
    return bits;
  };
  PackedWeight as_rows = problem.weight;
  as_rows.layout = WeightLayout::kRows;
  DeviceArray<float> products(shape.m * shape.n_rows);
  DeviceArray<Bf16> want(n_hidden);
  MatMulByPlan(Device(), {kTall16, 1}, problem.x_on_device.data(), shape.m, as_rows,
               products.data());
  SiluMul(Device(), shape.m, shape.n_rows / 2, products.data(), want.data());
  for (const MatMulPlan& plan : AllPlans(shape.n_leaves)) {
    CudaDevice& device = Device(GatedPlanScratchBytes(plan, shape.m, shape.n_rows));
    DeviceArray<Bf16> hidden(n_hidden);
    MatMulSiluMulByPlan(device, plan, problem.x_on_device.data(), shape.m, problem.weight,
                        hidden.data());
    EXPECT_EQ(bits(hidden), bits(want)) << NameOf(plan);
  }
}

// Fills y with ones and counts.
class FakeLibrary : public MatrixLibrary {
 public:
  void Prepare(const PackedWeight&, int64_t) override {}
  void MatMul(CudaDevice& device, const Bf16*, int64_t m, const PackedWeight& w,
              float* y) override {
    ++n_calls;
    ones_.assign(m * w.n_rows, 1.0f);
    CopyToDevice(device.stream(), y, ones_.data(), m * w.n_rows * 4);
  }
  int n_calls = 0;

 private:
  std::vector<float> ones_;
};

TEST_P(CudaMatMulTest, LibraryMultipliesManyRows) {
  FakeLibrary library;
  const Shape shape = {kOwnKernelRows + 1, 16, 16, 1};
  const Problem rows(shape), gated(shape, WeightLayout::kGatedRows);
  CudaDevice& device = Device(MatMulScratchBytes(Device(), shape.m, gated.weight));
  device.SetMatrixLibrary(&library);
  for (const int64_t m : {int64_t{0}, kOwnKernelRows, kOwnKernelRows + 1}) {
    library.n_calls = 0;
    DeviceArray<float> y(m * shape.n_rows), gate_up(m * shape.n_rows);
    DeviceArray<Bf16> hidden(m * shape.n_rows / 2);
    MatMul(device, rows.x_on_device.data(), m, rows.weight, y.data());
    MatMulSiluMul(device, gated.x_on_device.data(), m, gated.weight, gate_up.data(), hidden.data());
    const bool by_library = m > kOwnKernelRows;
    EXPECT_EQ(library.n_calls, by_library ? 2 : 0);
    for (const float value : y.ToHost()) {
      ASSERT_FALSE(std::isnan(value));
      ASSERT_EQ(value == 1.0f, by_library);
    }
    // silu(1) = 0.7311, in bf16.
    for (const Bf16 value : hidden.ToHost()) {
      ASSERT_FALSE(std::isnan(ToFloat(value)));
      ASSERT_EQ(ToFloat(value) == RoundToBf16(0.7310586f), by_library);
    }
  }
}

// The multiprocessors and the shared memory of an A100.
TEST_P(CudaMatMulTest, TilesFitAnA100) {
  const Shape shape = {1, 16, 16, 4};
  const Problem problem(shape);
  CudaDevice a100(nullptr, {.n_multiprocessors = 108, .max_shared_bytes = 163 << 10});
  const std::vector<float> want = Multiply(Device(), {kNarrow8, 1}, problem, 0, 1);
  for (int tile = 0; tile < kNMatMulTiles; ++tile) {
    const MatMulPlan plan = {static_cast<MatMulTileIdx>(tile), 1};
    EXPECT_EQ(Multiply(a100, plan, problem, 0, 1), want) << NameOf(plan);
  }
}

TEST(MatMulPlanTest, KeepsTheMultiprocessorsOf7BBusy) {
  const auto n_blocks = [](int64_t m, int64_t n_rows) {
    const MatMulPlan plan = PlanMatMul(m, n_rows, 4, 132);
    const MatMulTile& tile = kMatMulTiles[plan.tile];
    EXPECT_EQ(CeilDiv(m, tile.tokens()), 1);
    return CeilDiv(n_rows, tile.rows()) * plan.n_splits;
  };
  // The table in matmul_plan.h: 4096 rows stand for o and down.
  constexpr int64_t kRows[] = {6144, 4096, 28672, 32000};
  constexpr int64_t kBlocks[][5] = {{1, 192, 128, 896, 1000}, {8, 192, 128, 896, 1000},
                                    {9, 192, 128, 448, 500},  {16, 192, 128, 448, 500},
                                    {17, 192, 128, 224, 250}, {64, 192, 128, 224, 250}};
  for (const auto& line : kBlocks) {
    for (int i = 0; i < 4; ++i) EXPECT_EQ(n_blocks(line[0], kRows[i]), line[i + 1]) << line[0];
  }
}

// Eight rows of a chunk lie in eight different groups of four banks, and a row's chunks in its own
// 128 bytes.
TEST(MatMulPlanTest, StagesHaveNoBankConflicts) {
  for (int row = 0; row < 128; ++row) {
    std::set<int> places;
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(StagedAt(row, i) / kStageCols, row);
      places.insert(StagedAt(row, i));
    }
    EXPECT_EQ(places.size(), 8);
  }
  for (int chunk = 0; chunk < 8; ++chunk) {
    std::set<int> banks;
    for (int row = 0; row < 8; ++row) banks.insert(StagedAt(row, chunk) % kStageCols);
    EXPECT_EQ(banks.size(), 8);
  }
}

}  // namespace
}  // namespace bora
