#include "base/number_formats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bora {
namespace {

TEST(NumberFormatsTest, EveryNameIsParsed) {
  for (const DTypeInfo& info : kDTypes) {
    const auto dtype = ParseDType(info.name);
    ASSERT_TRUE(dtype.ok()) << dtype.status();
    EXPECT_EQ(*dtype, info.dtype);
    // Matrices that are not quantized have the numbers of their dtype.
    const auto weights = ParseWeightFormat(info.dtype, "");
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(InfoOf(*weights).rows, info.dtype);
    EXPECT_EQ(InfoOf(*weights).bits, 8 * info.bytes);
  }
  for (const WeightFormatInfo& info : kWeightFormats) {
    const auto weights = ParseWeightFormat(DType::kBf16, info.name);
    ASSERT_EQ(weights.ok(), info.is_quantization) << info.name;
    EXPECT_EQ(weights.value_or(info.format), info.format);
  }
}

TEST(NumberFormatsTest, ErrorsListTheNames) {
  EXPECT_EQ(ParseDType("float8").status().message(),
            "dtype is 'float8', supported are float32, bfloat16 and float16");
  EXPECT_EQ(ParseWeightFormat(DType::kF32, "int3").status().message(),
            "quantization is 'int3', supported is int8");
  EXPECT_EQ(ParseDType("").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bora
