#include "kernels/cpu/simd/simd_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/host/cpu_features.h"
#include "kernels/cpu/device_list.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

constexpr SimdLevel kDot = SimdLevel::kAvx512Bf16;
constexpr SimdLevel kFma = SimdLevel::kAvx512;

using Operation = SimdProbe::Operation;

bool Always() { return true; }

// Times of a processor, newest level 1 everywhere.
struct Times {
  double products[kNumRowClasses];  // of the level below
  double widened;                   // of the level below, in the last class
  double attention[2];              // of the level below
  double f16_widened;

  double Of(const SimdProbe& probe) const {
    if (probe.operation == Operation::kF16Product) return probe.loops.widened ? f16_widened : 1;
    if (probe.loops.level == kDot) return 1;
    if (probe.operation == Operation::kBf16Attention) return attention[probe.index];
    return probe.loops.widened ? widened : products[probe.index];
  }
};

// Where the dot product issues every second cycle and two multiply-adds every cycle: measured on an
// Emerald Rapids, 4096 x 14336 weights.
constexpr Times kEmeraldRapids = {
    {1 / 0.96, 1 / 1.04, 1 / 1.20, 1 / 1.68, 1 / 1.77}, 1 / 1.93, {1.0, 1 / 1.06}, 1 / 1.10};
// Where both have the same width: two multiply-adds take as long as one dot product of two.
constexpr Times kZen4 = {{1.1, 1.3, 1.7, 1.9, 1.95}, 1.9, {1.3, 1.7}, 1.05};

SimdChoice Choose(const Times& times) {
  return ChooseSimd(
      kDot, kFma, 5, [&](const SimdProbe& probe) { return times.Of(probe); }, Always);
}

TEST(SimdChoiceTest, TakesTheQuickerUnitForEachNumberOfRows) {
  const SimdChoice choice = Choose(kEmeraldRapids);
  EXPECT_EQ(choice.level, kDot);
  EXPECT_EQ(choice.bf16_products[0], (ProductLoops{kDot, false}));
  EXPECT_EQ(choice.bf16_products[1], (ProductLoops{kDot, false}));  // 4 % are not enough
  EXPECT_EQ(choice.bf16_products[2], (ProductLoops{kFma, false}));
  EXPECT_EQ(choice.bf16_products[3], (ProductLoops{kFma, false}));
  EXPECT_EQ(choice.bf16_products[4], (ProductLoops{kFma, true}));
  EXPECT_EQ(choice.bf16_attention[0], kDot);
  EXPECT_EQ(choice.bf16_attention[1], kFma);
  EXPECT_EQ(
      DescribeSimdChoice(choice),
      "avx512bf16, bf16 products of 8-15 rows avx512, of 16-47 rows avx512, of 48 rows and "
      "more avx512 widened, attention of many queries avx512, float16 products of 48 rows and "
      "more widened");
}

TEST(SimdChoiceTest, KeepsTheNewestWhereItIsTheQuickest) {
  EXPECT_EQ(DescribeSimdChoice(Choose(kZen4)), "avx512bf16");
}

// A neighbour that makes single samples of either side take many times as long changes nothing.
TEST(SimdChoiceTest, DisturbedSamplesDoNotCount) {
  for (int disturbed = 0; disturbed < 7; ++disturbed) {
    for (const Times& times : {kEmeraldRapids, kZen4}) {
      int n = 0;
      const SimdChoice choice = ChooseSimd(
          kDot, kFma, 5,
          [&](const SimdProbe& probe) { return times.Of(probe) * (n++ % 7 == disturbed ? 9 : 1); },
          Always);
      EXPECT_EQ(DescribeSimdChoice(choice), DescribeSimdChoice(Choose(times))) << disturbed;
    }
  }
}

// The first to read memory pays for the others.
TEST(SimdChoiceTest, TheOrderOfSamplesDoesNotCount) {
  SimdProbe::Operation operation = Operation::kF16Product;
  int index = -1;
  const auto seconds = [&](const SimdProbe& probe) {
    const bool is_first = probe.operation != operation || probe.index != index;
    operation = probe.operation;
    index = probe.index;
    return is_first ? 1.5 : 1.0;
  };
  EXPECT_EQ(DescribeSimdChoice(ChooseSimd(kDot, kFma, 5, seconds, Always)), "avx512bf16");
}

// One lucky sample is no reason to leave the newest level.
TEST(SimdChoiceTest, OneQuickSampleIsNotEnough) {
  std::map<std::tuple<Operation, int, SimdLevel, bool>, int> n_samples;
  const SimdChoice choice = ChooseSimd(
      kDot, kFma, 5,
      [&](const SimdProbe& probe) {
        const int n =
            n_samples[{probe.operation, probe.index, probe.loops.level, probe.loops.widened}]++;
        return probe.loops.level == kFma && n == 2 ? 0.5 : 1.0;
      },
      Always);
  EXPECT_EQ(DescribeSimdChoice(choice), "avx512bf16");
}

TEST(SimdChoiceTest, FallsBackToTheNewestLevel) {
  const auto quick = [](const SimdProbe& probe) { return kEmeraldRapids.Of(probe); };
  // No time for three rounds.
  int n_rounds = 0;
  EXPECT_EQ(DescribeSimdChoice(ChooseSimd(kDot, kFma, 5, quick, [&] { return ++n_rounds < 2; })),
            "avx512bf16");
  // A clock that does not move.
  EXPECT_EQ(DescribeSimdChoice(ChooseSimd(
                kDot, kFma, 5, [](const SimdProbe&) { return 0.0; }, Always)),
            "avx512bf16");
}

TEST(SimdChoiceTest, WidensPanelsWhereThatIsQuicker) {
  for (const double widened : {0.9, 0.97, 1.2}) {
    const auto seconds = [widened](const SimdProbe& probe) {
      if (probe.operation == Operation::kF16Product) return probe.loops.widened ? 2.0 : 1.0;
      return probe.loops.level == SimdLevel::kAvx2 ? 2.0 : probe.loops.widened ? widened : 1.0;
    };
    // Without the dot product, and with the level forced.
    for (SimdLevel below : {SimdLevel::kAvx2, kFma}) {
      const SimdChoice choice = ChooseSimd(kFma, below, 3, seconds, Always);
      EXPECT_EQ(
          DescribeSimdChoice(choice),
          widened == 0.9 ? "avx512, bf16 products of 48 rows and more avx512 widened" : "avx512");
    }
  }
}

// A forced level that has nothing to choose is not timed.
TEST(SimdChoiceTest, OneLevelAloneIsNotTimed) {
  for (SimdLevel level : {SimdLevel::kPortable, SimdLevel::kAvx2}) {
    int n_probes = 0;
    const auto seconds = [&](const SimdProbe&) { return ++n_probes, 1.0; };
    EXPECT_EQ(DescribeSimdChoice(ChooseSimd(level, level, 5, seconds, Always)),
              SimdLevelName(level));
    EXPECT_EQ(n_probes, 0);
  }
}

TEST(SimdChoiceTest, ClassesOfRows) {
  EXPECT_EQ(RowClassOf(1), 0);
  EXPECT_EQ(RowClassOf(3), 0);
  EXPECT_EQ(RowClassOf(4), 1);
  EXPECT_EQ(RowClassOf(15), 2);
  EXPECT_EQ(RowClassOf(16), 3);
  EXPECT_EQ(RowClassOf(48), 4);
  EXPECT_EQ(RowClassOf(512), 4);
}

TEST(SimdChoiceTest, NamesForceALevel) {
  for (SimdLevel level : AvailableSimdLevels()) {
    const absl::StatusOr<SimdChoice> choice = SimdChoiceByName(SimdLevelName(level));
    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_EQ(choice->level, level);
    for (const ProductLoops& loops : choice->bf16_products) EXPECT_EQ(loops.level, level);
    for (SimdLevel attention : choice->bf16_attention) EXPECT_EQ(attention, level);
  }
  EXPECT_THAT(std::string(SimdChoiceByName("neon").status().message()),
              HasSubstr("'neon' is no instruction set; here are auto, "));
  for (SimdLevel level : {kDot, kFma, SimdLevel::kAvx2}) {
    if (SimdLevelAvailable(level)) continue;
    EXPECT_THAT(std::string(SimdChoiceByName(SimdLevelName(level)).status().message()),
                HasSubstr("an instruction set that this CPU lacks; here are auto, "));
  }
}

// What is measured is something that this machine can run.
TEST(SimdChoiceTest, MeasuresThisMachine) {
  const absl::StatusOr<SimdChoice> choice = SimdChoiceByName("auto");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->level, BestSimdLevel());
  for (const ProductLoops& loops : choice->bf16_products) {
    EXPECT_TRUE(SimdLevelAvailable(loops.level));
  }
  for (SimdLevel level : choice->bf16_attention) EXPECT_TRUE(SimdLevelAvailable(level));
  EXPECT_THAT(ListDevices(*choice)[0], HasSubstr(DescribeSimdChoice(*choice) + " (has "));
}

TEST(SimdChoiceTest, WhatVersionSaysOfTheHostIsWhatTheKernelsFind) {
  std::string names;
  for (const SimdLevel level : AvailableSimdLevels()) {
    names = absl::StrCat(SimdLevelName(level), names.empty() ? "" : ", ", names);
  }
  EXPECT_EQ(HostInstructionSets(), names);
  EXPECT_THAT(BuiltInstructionSets(), HasSubstr(names));
}

}  // namespace
}  // namespace bora
