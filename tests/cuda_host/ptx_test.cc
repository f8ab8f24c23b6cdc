// ldmatrix, mma and cp.async on the CPU: layouts against the tables of the PTX ISA, products
// against float64, and the planted mistakes that asynchronous copies invite.
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

uint32_t Pack(uint16_t low, uint16_t high) { return low | uint32_t{high} << 16; }

TEST_P(PtxTest, LoadMatricesFollowsTheTable) {
  std::vector<uint16_t> elements(32 * 8);
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<uint16_t>(i);
  std::vector<uint32_t> out(32 * 4);
  RunLoadMatrices(device_, false, elements.data(), out.data());
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      const int i = m * 64 + lane / 4 * 8 + lane % 4 * 2;
      EXPECT_EQ(out[lane * 4 + m], Pack(elements[i], elements[i + 1]));
    }
  }
  RunLoadMatrices(device_, true, elements.data(), out.data());
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      const int i = m * 64 + lane % 4 * 2 * 8 + lane / 4;
      EXPECT_EQ(out[lane * 4 + m], Pack(elements[i], elements[i + 8]));
    }
  }
}

// Where element i of a lane's fragment lies, in the words of the PTX ISA (9.7.14, m16n8k16 with
// 16-bit types): groupID = laneid >> 2, threadID_in_group = laneid % 4.
int RowOfA(int lane, int i) { return (i < 2 || (i >= 4 && i < 6)) ? lane >> 2 : (lane >> 2) + 8; }
int ColOfA(int lane, int i) { return lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8); }
int RowOfB(int lane, int i) { return lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8); }
int ColOfB(int lane, int) { return lane >> 2; }
int RowOfC(int lane, int i) { return i < 2 ? lane >> 2 : (lane >> 2) + 8; }
int ColOfC(int lane, int i) { return lane % 4 * 2 + (i & 1); }

struct Tile {
  std::vector<Bf16> a;   // [16, 16]
  std::vector<Bf16> b;   // [16, 8]
  std::vector<float> c;  // [16, 8]

  explicit Tile(uint64_t seed)
      : a(ToBf16s(RandomFloats(16 * 16, seed))),
        b(ToBf16s(RandomFloats(16 * 8, seed + 100))),
        c(RandomFloats(16 * 8, seed + 200)) {}

  // Compares one element of c + A B: 17 roundings of partial sums.
  void Check(WorstRatio& worst, int row, int col, float start, float got) const {
    double want = start, magnitude = std::abs(start);
    for (int k = 0; k < 16; ++k) {
      const double product = double{ToFloat(a[row * 16 + k])} * ToFloat(b[k * 8 + col]);
      want += product;
      magnitude += std::abs(product);
    }
    worst.Add(got, want, 17 * kFloatEps * magnitude);
  }
};

TEST_P(PtxTest, MultiplyFollowsTheTables) {
  WorstRatio worst("mma");
  for (uint64_t seed : {1, 2, 3}) {
    const Tile tile(seed);
    std::vector<uint32_t> a(32 * 4), b(32 * 2);
    std::vector<float> c(32 * 4);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; i += 2) {
        a[lane * 4 + i / 2] = Pack(tile.a[RowOfA(lane, i) * 16 + ColOfA(lane, i)].bits,
                                   tile.a[RowOfA(lane, i + 1) * 16 + ColOfA(lane, i + 1)].bits);
      }
      for (int i = 0; i < 4; i += 2) {
        b[lane * 2 + i / 2] = Pack(tile.b[RowOfB(lane, i) * 8 + ColOfB(lane, i)].bits,
                                   tile.b[RowOfB(lane, i + 1) * 8 + ColOfB(lane, i + 1)].bits);
      }
      for (int i = 0; i < 4; ++i) {
        c[lane * 4 + i] = tile.c[RowOfC(lane, i) * 8 + ColOfC(lane, i)];
      }
    }
    RunMultiply(device_, a.data(), b.data(), c.data());
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = RowOfC(lane, i), col = ColOfC(lane, i);
        tile.Check(worst, row, col, tile.c[row * 8 + col], c[lane * 4 + i]);
      }
    }
  }
}

TEST_P(PtxTest, TileThroughSharedMemoryIsTheProduct) {
  WorstRatio worst("tile");
  for (uint64_t seed : {4, 5, 6}) {
    const Tile tile(seed);
    std::vector<Bf16> b_transposed(8 * 16);
    for (int i = 0; i < 8 * 16; ++i) b_transposed[i] = tile.b[i % 16 * 8 + i / 16];
    std::vector<float> d(16 * 8, NAN);
    RunTile(device_, tile.a.data(), b_transposed.data(), d.data());
    for (int i = 0; i < 16 * 8; ++i) tile.Check(worst, i / 8, i % 8, 0, d[i]);
  }
}

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
