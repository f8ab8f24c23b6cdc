#include "base/flags/quantity.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace bora {
namespace {

TEST(QuantityTest, ReadsAmountsOfMemory) {
  EXPECT_EQ(ParseBytes("141GB").value(), 141'000'000'000);
  EXPECT_EQ(ParseBytes("80GiB").value(), int64_t{80} << 30);
  EXPECT_EQ(ParseBytes("143771MiB").value(), int64_t{143771} << 20);
  EXPECT_EQ(ParseBytes("1.5 TB").value(), 1'500'000'000'000);
  EXPECT_EQ(ParseBytes("512B").value(), 512);
  EXPECT_EQ(ParseBytes("2kB").value(), 2000);
}

TEST(QuantityTest, QuotesWhatIsNoAmountOfMemory) {
  // Bits, no unit, other cases of letters, other forms of numbers, and out of range.
  for (const char* text :
       {"",        "141",   "GB",      "141Gb", "141gB",      "141mB",   "141gb",
        "-1GB",    "+1GB",  "1e3GB",   "0x1GB", "1.2.3GB",    "nanGB",   "infGB",
        "141 G B", "141XB", "141GiiB", "0GB",   "2000000TiB", "141GB/s", "0.1B"}) {
    const auto bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text << " is " << *bytes;
    EXPECT_NE(std::string(bytes.status().message()).find(text), std::string::npos);
  }
}

TEST(QuantityTest, ReadsRatesInBitsAndBytes) {
  EXPECT_EQ(ParseBytesPerSecond("400Gb").value(), 50e9);
  EXPECT_EQ(ParseBytesPerSecond("400Gb/s").value(), 50e9);
  EXPECT_EQ(ParseBytesPerSecond("25GB").value(), 25e9);
  EXPECT_EQ(ParseBytesPerSecond("4.3TB/s").value(), 4.3e12);
  EXPECT_EQ(ParseBytesPerSecond("1GiB").value(), 1073741824.0);
}

TEST(QuantityTest, QuotesWhatIsNoRate) {
  for (const char* text : {"", "400", "400G", "Gb", "400Gbps", "0Gb", "-1Gb", "/s", "4Gb/s/s"}) {
    const auto rate = ParseBytesPerSecond(text);
    ASSERT_FALSE(rate.ok()) << text << " is " << *rate;
    EXPECT_NE(std::string(rate.status().message()).find(text), std::string::npos);
  }
}

TEST(QuantityTest, ReadsWholeNumbersInDecimalOnly) {
  EXPECT_EQ(ParseInteger("0").value(), 0);
  EXPECT_EQ(ParseInteger("010").value(), 10);
  EXPECT_EQ(ParseInteger("-9223372036854775808").value(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(ParseInteger("9223372036854775807").value(), std::numeric_limits<int64_t>::max());
  for (const char* text : {"9223372036854775808", "-9223372036854775809", "99999999999999999999"}) {
    EXPECT_EQ(ParseInteger(text).status().code(), absl::StatusCode::kOutOfRange) << text;
  }
  for (const char* text :
       {"", "-", "+1", " 1", "1 ", "0x10", "1e3", "1.0", "1,000", "ten", "--1"}) {
    EXPECT_EQ(ParseInteger(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(QuantityTest, ReadsCountsWithSuffixes) {
  EXPECT_EQ(ParseCount("64").value(), 64);
  EXPECT_EQ(ParseCount("-1").value(), -1);
  EXPECT_EQ(ParseCount("8k").value(), 8000);
  EXPECT_EQ(ParseCount("8K").value(), 8192);
  EXPECT_EQ(ParseCount("8Ki").value(), 8192);
  EXPECT_EQ(ParseCount("1.5k").value(), 1500);
  EXPECT_EQ(ParseCount("2M").value(), 2'000'000);
  EXPECT_EQ(ParseCount("1Gi").value(), int64_t{1} << 30);
  for (const char* text : {"", "k", "8 k", "8kB", "8m", "1.5", "1.0001k", "-8k", "9e9",
                           "99999999999G", "1.2.3k", ".k"}) {
    EXPECT_FALSE(ParseCount(text).ok()) << text << " is " << *ParseCount(text);
  }
}

TEST(QuantityTest, ReadsLengthsOfTime) {
  const absl::Duration second = absl::Seconds(1);
  EXPECT_EQ(ParseDuration("5s", second).value(), absl::Seconds(5));
  EXPECT_EQ(ParseDuration("500ms", second).value(), absl::Milliseconds(500));
  EXPECT_EQ(ParseDuration("2m", second).value(), absl::Minutes(2));
  EXPECT_EQ(ParseDuration("1m30s", second).value(), absl::Seconds(90));
  EXPECT_EQ(ParseDuration("1.5h", second).value(), absl::Minutes(90));
  EXPECT_EQ(ParseDuration("0", second).value(), absl::ZeroDuration());
  EXPECT_EQ(ParseDuration("0.5", second).value(), absl::Milliseconds(500));
  EXPECT_EQ(ParseDuration("100", absl::Milliseconds(1)).value(), absl::Milliseconds(100));
  for (const char* text :
       {"", "s", "5 s", "-5s", "+5s", "5 parsecs", "inf", "nan", "1e3", "5S", ".", "1.2.3"}) {
    const auto duration = ParseDuration(text, second);
    ASSERT_FALSE(duration.ok()) << text << " is " << *duration;
    EXPECT_NE(std::string(duration.status().message()).find(text), std::string::npos);
  }
}

TEST(QuantityTest, ShowsFourDigits) {
  EXPECT_EQ(FormatBytes(14'484'000'000), "14.48 GB");
  EXPECT_EQ(FormatBytes(131'072), "131.1 kB");
  EXPECT_EQ(FormatBytes(-2'500'000), "-2.5 MB");
  EXPECT_EQ(FormatBytes(2'000'000'000'000), "2 TB");
  EXPECT_EQ(FormatBytes(0), "0 B");
}

}  // namespace
}  // namespace bora
