#include "base/bf16.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace bora {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Bf16Test, EveryValueSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Bf16 value{static_cast<uint16_t>(bits)};
    const float wide = ToFloat(value);
    if (std::isnan(wide)) {
      // NaN stays NaN; a signalling one may become quiet.
      ASSERT_TRUE(std::isnan(RoundToBf16(wide))) << bits;
    } else {
      ASSERT_EQ(ToBf16(wide).bits, bits);
    }
  }
}

TEST(Bf16Test, RoundsToNearestAndTiesToEven) {
  // Between 1 and its successor 1 + 2^-7.
  EXPECT_EQ(RoundToBf16(1.0f + 0x1p-8f), 1.0f);
  EXPECT_EQ(RoundToBf16(1.0f + 0x1p-8f + 0x1p-23f), 1.0f + 0x1p-7f);
  EXPECT_EQ(RoundToBf16(1.0f + 0x1p-8f - 0x1p-23f), 1.0f);
  EXPECT_EQ(RoundToBf16(1.0f + 3 * 0x1p-8f), 1.0f + 0x1p-6f);
  EXPECT_EQ(RoundToBf16(-1.0f - 0x1p-8f), -1.0f);
}

TEST(Bf16Test, OverflowsToInfinityAndKeepsNan) {
  EXPECT_EQ(RoundToBf16(std::numeric_limits<float>::max()), kInfinity);
  EXPECT_EQ(RoundToBf16(-kInfinity), -kInfinity);
  // All payload bits are in the lower half, which is cut off.
  EXPECT_TRUE(std::isnan(RoundToBf16(std::bit_cast<float>(0x7f800001u))));
  EXPECT_TRUE(std::signbit(RoundToBf16(-0.0f)));
}

// The value by its definition, in double.
double HalfByDefinition(uint16_t half) {
  const int exponent = (half >> 10) & 0x1f;
  const int mantissa = half & 0x3ff;
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(HalfTest, EveryValueIsExactInFloatAndComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = HalfToFloat(half);
    if ((bits & 0x7c00) == 0x7c00) {
      ASSERT_EQ(std::isinf(wide), (bits & 0x3ff) == 0) << bits;
      ASSERT_EQ(std::isnan(wide), (bits & 0x3ff) != 0) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(wide), HalfByDefinition(half)) << bits;
    }
    if (!std::isnan(wide)) {
      ASSERT_EQ(FloatToHalf(wide), half);
    }
  }
}

// Halfway between two neighbours goes to the even one, anything beside it to the nearer one.
TEST(HalfTest, RoundsToNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {
    const float below = HalfToFloat(static_cast<uint16_t>(bits));
    const float above = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = (below + above) / 2;  // exact: one bit more
    ASSERT_EQ(FloatToHalf(middle), bits + (bits & 1));
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, kInfinity)), bits + 1);
    ASSERT_EQ(FloatToHalf(-middle), 0x8000u + bits + (bits & 1));
  }
}

TEST(HalfTest, OverflowsToInfinityFromHalfwayOn) {
  EXPECT_EQ(FloatToHalf(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(std::nanf("")))));
}

}  // namespace
}  // namespace bora
