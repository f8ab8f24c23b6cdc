#include "model/planning/roofline.h"

#include <gtest/gtest.h>

#include "model/planning/partition.h"
#include "tests/model/mistral_7b.h"

namespace bora {
namespace {

StageRoofline WholeMistral(int tp_size) {
  const ModelConfig config = Mistral7B();
  const auto partition = MakePartition(config, tp_size, 1);
  return StageRoofline(config, ShapeOfRank(config, *partition, 0, 0), DeviceLimits());
}

StepWork Decode(int64_t n_rows, int64_t context) {
  StepWork work;
  for (int64_t row = 0; row < n_rows; ++row) work.Add(context - 1, 1);
  return work;
}

// 14.221 GB of matrices at 4.3 TB/s are 3.307 ms; a token of context is 131,072 bytes (30.48 ns)
// and 524,288 flop (0.66 ns).
TEST(RooflineTest, DecodingIsBoundByMemory) {
  const StageRoofline stage = WholeMistral(1);
  const StageTime alone = stage.Predict(Decode(1, 1), 1);
  EXPECT_NEAR(alone.us(), 3307, 1);
  EXPECT_EQ(alone.communication_us, 0);
  EXPECT_NEAR(stage.context_cost().context_token_us, 0.03048, 1e-5);
  EXPECT_NEAR(stage.context_cost().pair_us, 0.000664, 1e-6);
  EXPECT_NEAR(stage.Predict(Decode(32, 1024), 32).us(), 3307 + 32 * 1024 * 0.03114, 2);
}

// 184 rows are 790 TFLOP/s over 4.3 TB/s; the products of 256 take 2 * 7.11e9 * 256 / 790e12.
TEST(RooflineTest, ManyRowsAreBoundByArithmetic) {
  const StageRoofline stage = WholeMistral(1);
  EXPECT_NEAR(stage.Predict(Decode(183, 1), 183).us(), 3307 + 183 * 0.031, 1);
  EXPECT_NEAR(stage.Predict(Decode(256, 1), 256).us(), 4608 + 256 * 0.031, 5);
}

// 8,192 tokens: 114.3 TFLOP of products, 17.6 of attention.
TEST(RooflineTest, PromptsAreBoundByArithmetic) {
  StepWork work;
  work.Add(0, 8192);
  EXPECT_NEAR(WholeMistral(1).Predict(work, 1).us(), 167e3, 1e3);
}

// 64 all-reduces and the logits at 17.3 us, 7 * 16 KiB and 7/8 of 128,000 bytes at 365 GB/s.
TEST(RooflineTest, TensorRanksShareTheWorkAndPayForTheirSums) {
  const StageTime time = WholeMistral(8).Predict(Decode(1, 1), 1);
  EXPECT_NEAR(time.compute_us, 3307 / 8.0, 1);
  EXPECT_NEAR(time.communication_us, 64 * (17.3 + 0.314) + 17.3 + 0.307, 0.1);
  // A chunk of a prompt that samples nothing needs no head.
  EXPECT_NEAR(WholeMistral(8).Predict(Decode(1, 1), 0).communication_us, 64 * (17.3 + 0.314), 0.1);
}

TEST(RooflineTest, LongSumsAreDividedAmongTheRanks) {
  const DeviceLimits limits;
  EXPECT_EQ(AllReduceMicroseconds(limits, 1, 1e6), 0);
  EXPECT_NEAR(AllReduceMicroseconds(limits, 2, 8192), 6 + 8192 / 365e3, 1e-6);
  EXPECT_NEAR(AllReduceMicroseconds(limits, 4, 8192), 11.65 + 3 * 8192 / 365e3, 1e-6);
  // 2048 tokens of 16 KiB: 2 * 7/8 of 33.6 MB instead of 7 times as much.
  const double n_bytes = 2048.0 * 16384;
  EXPECT_NEAR(AllReduceMicroseconds(limits, 8, n_bytes), 2 * 17.3 + 1.75 * n_bytes / 365e3, 1e-6);
}

}  // namespace
}  // namespace bora
