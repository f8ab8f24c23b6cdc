#include "base/philox.h"

#include <gtest/gtest.h>

#include <array>

namespace bora {
namespace {

using Words = std::array<uint32_t, 4>;

// The known answers of the authors' library Random123 (kat_vectors, philox4x32 10): counter and key
// of zeros, of ones, and of the digits of pi.
TEST(PhiloxTest, GivesTheKnownAnswers) {
  EXPECT_EQ(Philox4x32(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Word 0 of counter and key is the low half of the first 64 bits.
  EXPECT_EQ(Philox4x32(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformsAreInTheHalfOpenInterval) {
  EXPECT_EQ(UniformDouble(0, 0), 0.0);
  EXPECT_EQ(UniformDouble(0, (1u << 11) - 1), 0.0);  // 53 of 64 bits count
  EXPECT_EQ(UniformDouble(0, 1u << 11), 0x1p-53);
  EXPECT_EQ(UniformDouble(0x80000000u, 0), 0.5);
  EXPECT_EQ(UniformDouble(~0u, ~0u), 1.0 - 0x1p-53);
  EXPECT_EQ(UniformFloat(0xffu), 0.0f);
  EXPECT_EQ(UniformFloat(0x80000000u), 0.5f);
  EXPECT_EQ(UniformFloat(~0u), 1.0f - 0x1p-24f);
}

}  // namespace
}  // namespace bora
