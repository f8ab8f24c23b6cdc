// ldmatrix, mma and cp.async on the CPU: bank conflicts and the planted mistakes that asynchronous
// copies invite. tests/cuda/ptx_layout_test.cc has the layouts.
#include "tests/cuda_host/ptx.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/cuda_host/ops_testing.h"
#include "tests/cuda_host/ptx_kernels.h"
#include "tests/kernels/op_testing.h"

namespace bora::cuda_host {
namespace {

class PtxTest : public CudaHostTest {};
INSTANTIATE_TEST_SUITE_P(, PtxTest, testing::ValuesIn(AllRunOptions()), RunOptionsName);

TEST_P(PtxTest, SwizzleAvoidsBankConflicts) {
  ResetBankCounts();
  RunStridedLoads(device_, false);
  EXPECT_EQ(bank_counts().n_phases, 4);
  EXPECT_EQ(bank_counts().n_extra_cycles, 4 * 7);
  ResetBankCounts();
  RunStridedLoads(device_, true);
  EXPECT_EQ(bank_counts().n_phases, 4);
  EXPECT_EQ(bank_counts().n_extra_cycles, 0);
}

TEST(Exp2Test, FlushesSubnormalResults) {
  EXPECT_EQ(bora::Exp2(3.0f), 8.0f);
  EXPECT_EQ(bora::Exp2(-126.0f), 0x1p-126f);
  EXPECT_EQ(bora::Exp2(-127.0f), 0.0f);
  EXPECT_EQ(bora::Exp2(-INFINITY), 0.0f);
  EXPECT_TRUE(std::isnan(bora::Exp2(NAN)));
}

class PipelineDeathTest : public CudaHostTest {
 protected:
  // Ends the process when the result is wrong.
  void Run(CopyBug bug) {
    constexpr int kTiles = 5, kTile = 128;
    const std::vector<float> in = RandomFloats(kTiles * kTile - 2, 1);
    std::vector<float> out(kTiles * kTile, NAN);
    RunPipeline(device_, bug, kTiles, in.data(), out.data());
    for (int i = 0; i < kTiles * kTile; ++i) {
      const size_t from = i / kTile * kTile + (i + 4) % kTile;
      CHECK_EQ(out[i], from < in.size() ? in[from] : 0.0f) << "wrong result";
    }
  }

  bool late() const { return !GetParam().eager_copies; }
};
INSTANTIATE_TEST_SUITE_P(, PipelineDeathTest, testing::ValuesIn(AllRunOptions()), RunOptionsName);

TEST_P(PipelineDeathTest, CorrectOneIsRight) { Run(CopyBug::kNone); }

TEST_P(PipelineDeathTest, WaitTooWeak) {
  if (!late()) return;  // the copy has happened
  EXPECT_DEATH(Run(CopyBug::kWaitTooWeak), HasRaceDetector()
                                               ? "read of what nobody has written of shared memory"
                                               : "AddressSanitizer: use-after-poison");
}

TEST_P(PipelineDeathTest, NoBarrierAfterWait) {
  EXPECT_DEATH(Run(CopyBug::kNoBarrierAfterWait),
               HasRaceDetector() ? "of shared memory by thread" : "use-after-poison|wrong result");
}

TEST_P(PipelineDeathTest, NoBarrierBeforeRefill) {
  // A late copy is a write at its wait, which comes after the next tile's barrier.
  if (HasRaceDetector() && late()) return;
  EXPECT_DEATH(Run(CopyBug::kNoBarrierBeforeRefill), HasRaceDetector()
                                                         ? "write after read of shared memory"
                                                         : "use-after-poison|wrong result");
}

TEST_P(PipelineDeathTest, ReadsOneTooFar) {
  if (HasRaceDetector()) return;
  EXPECT_DEATH(Run(CopyBug::kReadsOneTooFar), "ptx_kernels.cu:.*reads outside of its source");
}

TEST_P(PipelineDeathTest, WritesOneTooFar) {
  EXPECT_DEATH(Run(CopyBug::kWritesOneTooFar), "ptx_kernels.cu:.*does not go to a shared array");
}

}  // namespace
}  // namespace bora::cuda_host
