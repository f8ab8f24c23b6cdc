// The CPU form of CUDA itself: what it computes, and that each planted mistake is found by the
// programs whose job it is.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/cuda_host/ops_testing.h"
#include "tests/cuda_host/planted_norm.h"
#include "tests/cuda_host/shim_kernels.h"
#include "tests/kernels/op_testing.h"

namespace bora::cuda_host {
namespace {

class ShimTest : public CudaHostTest {};
INSTANTIATE_TEST_SUITE_P(, ShimTest, testing::ValuesIn(AllRunOptions()), RunOptionsName);

// Without one of the two, the other tests would prove little.
TEST(ShimBuildTest, KernelsAreInstrumented) { EXPECT_NE(HasAddressSanitizer(), HasRaceDetector()); }

TEST_P(ShimTest, ShufflesReadTheLaneOfTheirDefinition) {
  std::vector<float> in(32), out(4 * 32);
  std::iota(in.begin(), in.end(), 0.0f);
  for (int width : {4, 8, 32}) {
    for (int operand : {0, 1, 3, 5}) {
      RunShuffles(device_, operand, width, in.data(), out.data());
      for (int lane = 0; lane < 32; ++lane) {
        const int first = lane - lane % width;
        const int last = first + width - 1;
        const int by_xor = (lane ^ operand) <= last ? lane ^ operand : lane;
        EXPECT_EQ(out[lane], first + operand % width);
        EXPECT_EQ(out[32 + lane], lane - operand >= first ? lane - operand : lane);
        EXPECT_EQ(out[64 + lane], lane + operand <= last ? lane + operand : lane);
        EXPECT_EQ(out[96 + lane], by_xor);
      }
    }
  }
}

TEST_P(ShimTest, BallotCountsItsWarp) {
  std::vector<unsigned> out(64);
  RunBallot(device_, 64, out.data());
  for (int thread = 0; thread < 64; ++thread) {
    unsigned want = 0;
    for (int lane = 0; lane < 32; ++lane) {
      want |= unsigned{(thread / 32 * 32 + lane) % 3 == 0} << lane;
    }
    EXPECT_EQ(out[thread], want);
  }
}

TEST_P(ShimTest, WordsOf64BitsArriveWhole) {
  std::vector<uint64_t> out(3 * 32);
  RunWideWords(device_, out.data());
  for (uint64_t lane = 0; lane < 32; ++lane) {
    const auto word = [](uint64_t of_lane) {
      return of_lane + (uint64_t{1} << 40) * (of_lane + 1);
    };
    EXPECT_EQ(out[lane], word(lane < 31 ? lane + 1 : lane));
    EXPECT_EQ(out[32 + lane], word(lane ^ 1));
    // word * lane / 2^64 is below 1/2.
    EXPECT_EQ(out[64 + lane], word(lane) / 2);
  }
}

TEST_P(ShimTest, AtomicsAddUp) {
  constexpr int kBlocks = 3;
  std::vector<int> in(kBlocks * 64);
  for (int i = 0; i < kBlocks * 64; ++i) in[i] = i * i;
  std::vector<uint32_t> want(kCountBins, 7), out(kCountBins, 7);
  for (const int value : in) ++want[value % kCountBins];
  RunCount(device_, CountBug::kNone, kBlocks, in.data(), out.data());
  EXPECT_EQ(out, want);
}

TEST_P(ShimTest, BarriersOrderSharedMemory) {
  for (int n_threads : {32, 96, 1024}) {
    std::vector<int> out(2 * n_threads, -1);
    RunRing(device_, 2, n_threads, 5, out.data());
    for (int i = 0; i < 2 * n_threads; ++i) {
      EXPECT_EQ(out[i], (i % n_threads + n_threads - 5) % n_threads);
    }
  }
}

// Runs the planted norm; the largest error, NaN if a result is.
double NormError(CudaDevice& device, NormBug bug) {
  constexpr int64_t kTokens = 2, kDim = 150;
  const std::vector<float> in = RandomFloats(kTokens * kDim, 1);
  std::vector<float> out(kTokens * kDim, NAN);
  PlantedNorm(device, bug, kTokens, kDim, in.data(), out.data());
  double worst = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < kDim; ++i) sum += double{in[t * kDim + i]} * in[t * kDim + i];
    for (int64_t i = 0; i < kDim; ++i) {
      const double error = std::abs(out[t * kDim + i] - in[t * kDim + i] / std::sqrt(sum));
      if (!(error <= worst)) worst = error;
    }
  }
  return worst;
}

class PlantedNormDeathTest : public CudaHostTest {
 protected:
  // Expects a run to end with a message that matches the program's expression; "" expects nothing.
  void ExpectFound(NormBug bug, const std::string& in_bounds, const std::string& in_race) {
    const std::string& want = HasRaceDetector() ? in_race : in_bounds;
    if (want.empty()) return;
    EXPECT_DEATH(NormError(device_, bug), want);
  }
};
INSTANTIATE_TEST_SUITE_P(, PlantedNormDeathTest, testing::ValuesIn(AllRunOptions()),
                         RunOptionsName);

TEST_P(PlantedNormDeathTest, CorrectOneIsRight) {
  EXPECT_LT(NormError(device_, NormBug::kNone), 1e-6);
}

TEST_P(PlantedNormDeathTest, SharedArrayOneTooShort) {
  ExpectFound(NormBug::kSharedArrayOneTooShort, "AddressSanitizer: use-after-poison", "");
}

TEST_P(PlantedNormDeathTest, RowOneTooLong) {
  ExpectFound(NormBug::kRowOneTooLong, "AddressSanitizer: heap-buffer-overflow",
              "of global memory");
}

TEST_P(PlantedNormDeathTest, NoBarrier) {
  if (HasRaceDetector()) {
    ExpectFound(NormBug::kNoBarrier, "", "read of what nobody has written of shared memory");
  } else {
    // Shared memory is full of NaN at first, and the first warp reads what the last has to write.
    EXPECT_TRUE(std::isnan(NormError(device_, NormBug::kNoBarrier)));
  }
}

TEST_P(PlantedNormDeathTest, LaneSkipsShuffle) {
  const std::string want = "DEADLOCK|which has exited|exits while others wait";
  ExpectFound(NormBug::kLaneSkipsShuffle, want, want);
}

TEST_P(PlantedNormDeathTest, WarpSkipsBarrier) {
  const std::string want = "exits while others wait in __syncthreads|after other threads have";
  ExpectFound(NormBug::kWarpSkipsBarrier, want, want + "|read of what|read after write");
}

TEST_P(PlantedNormDeathTest, AsksForTooFewBytes) {
  const std::string want = "shared memory: arrays need 16 bytes, the launch asks for 12";
  ExpectFound(NormBug::kAsksForTooFewBytes, want, want);
}

// A deadlock names where everybody stands.
TEST(DeadlockDeathTest, NamesWhereThreadsWait) {
  CudaDevice device(nullptr);
  EXPECT_DEATH(NormError(device, NormBug::kLaneSkipsShuffle),
               "threads 0..4: wait in __shfl_xor_sync at planted_norm.cu:[0-9]+\n"
               "  threads 5..5: wait in __syncthreads at planted_norm.cu:[0-9]+\n"
               "  threads 6..31: wait in __shfl_xor_sync at planted_norm.cu");
}

class MisuseDeathTest : public CudaHostTest {
 protected:
  void Run(Misuse misuse, int n_blocks = 1) {
    std::vector<int> in(n_blocks * 64), out(n_blocks * 64);
    std::iota(in.begin(), in.end(), 0);
    RunMisuse(device_, misuse, n_blocks, in.data(), out.data());
  }
};
INSTANTIATE_TEST_SUITE_P(, MisuseDeathTest, testing::ValuesIn(AllRunOptions()), RunOptionsName);

TEST_P(MisuseDeathTest, CorrectProgramRuns) {
  Run(Misuse::kNone, 2);
  Run(Misuse::kNone, 3);  // launches are ordered: the memory of the one before may be reused
}

TEST_P(MisuseDeathTest, NotInOwnMask) {
  EXPECT_DEATH(Run(Misuse::kNotInOwnMask), "by a lane that is not in its own mask");
}

TEST_P(MisuseDeathTest, ReadsOutsideMask) {
  EXPECT_DEATH(Run(Misuse::kReadsOutsideMask), "lane 0 reads lane 16, which is not in the mask");
}

TEST_P(MisuseDeathTest, DifferentOperations) {
  EXPECT_DEATH(Run(Misuse::kDifferentOperations), "while lane [0-9]+, in the mask, wait in");
}

TEST_P(MisuseDeathTest, DifferentBarriers) {
  EXPECT_DEATH(Run(Misuse::kDifferentBarriers),
               "while others wait in another one, at shim_kernels");
}

TEST_P(MisuseDeathTest, BarrierAfterExit) {
  EXPECT_DEATH(Run(Misuse::kBarrierAfterExit),
               "DEADLOCK|which has exited|after other threads have exited");
}

TEST_P(MisuseDeathTest, ExitBeforeBarrier) {
  EXPECT_DEATH(Run(Misuse::kExitBeforeBarrier),
               "DEADLOCK|which has exited|exits while others|after other threads have exited");
}

TEST_P(MisuseDeathTest, TakesDifferently) {
  EXPECT_DEATH(Run(Misuse::kTakesDifferently), "array 0 has 25[26] bytes here, 25[26] in another");
}

TEST_P(MisuseDeathTest, NoWarpBarrier) {
  if (!HasRaceDetector()) return;
  EXPECT_DEATH(Run(Misuse::kNoWarpBarrier), "read after write of shared memory");
}

TEST_P(MisuseDeathTest, NoWarpBarrierBeforeRewrite) {
  if (!HasRaceDetector()) return;
  EXPECT_DEATH(Run(Misuse::kNoWarpBarrierBeforeRewrite), "write after read of shared memory");
}

TEST_P(MisuseDeathTest, BlocksWriteTheSame) {
  if (!HasRaceDetector()) return;
  EXPECT_DEATH(Run(Misuse::kBlocksWriteTheSame, 2), "write after write of global memory");
}

TEST_P(MisuseDeathTest, ReadsWhatNobodyHasWritten) {
  if (!HasRaceDetector()) return;
  const std::vector<int> in(64);
  std::vector<int> out(64);
  SetWritten(in.data(), 64 * sizeof(int), false);
  EXPECT_DEATH(RunMisuse(device_, Misuse::kNone, 1, in.data(), out.data()),
               "read of what nobody has written of global memory");
  SetWritten(in.data(), 64 * sizeof(int), true);
  RunMisuse(device_, Misuse::kNone, 1, in.data(), out.data());
}

class CountDeathTest : public CudaHostTest {
 protected:
  // Expects the race program to end with a message; the other one sees nothing wrong.
  void ExpectRace(CountBug bug, const std::string& want, int n_blocks = 1) {
    if (!HasRaceDetector()) return;
    EXPECT_DEATH(Run(bug, n_blocks), want);
  }
  void Run(CountBug bug, int n_blocks) {
    std::vector<int> in(n_blocks * 64);
    std::iota(in.begin(), in.end(), 0);
    std::vector<uint32_t> out(kCountBins);
    RunCount(device_, bug, n_blocks, in.data(), out.data());
  }
};
INSTANTIATE_TEST_SUITE_P(, CountDeathTest, testing::ValuesIn(AllRunOptions()), RunOptionsName);

TEST_P(CountDeathTest, DoesNotClear) {
  ExpectRace(CountBug::kDoesNotClear, "atomic on what nobody has written of shared memory");
}

TEST_P(CountDeathTest, NoBarrierAfterClearing) {
  ExpectRace(CountBug::kNoBarrierAfterClearing, "atomic after write of shared memory");
}

TEST_P(CountDeathTest, NoBarrierBeforeReading) {
  ExpectRace(CountBug::kNoBarrierBeforeReading,
             "(read after atomic|atomic after read) of shared memory");
}

TEST_P(CountDeathTest, OneThreadAddsWithoutAtomic) {
  ExpectRace(CountBug::kOneThreadAddsWithoutAtomic,
             "(read after atomic|atomic after write) of shared memory");
}

TEST_P(CountDeathTest, BlocksAddWithoutAtomic) {
  ExpectRace(CountBug::kBlocksAddWithoutAtomic, "read after atomic of global memory", 2);
}

TEST_P(CountDeathTest, OneBinTooFar) {
  if (!HasAddressSanitizer()) return;
  EXPECT_DEATH(Run(CountBug::kOneBinTooFar, 1), "atomicAdd outside of an array");
}

}  // namespace
}  // namespace bora::cuda_host
