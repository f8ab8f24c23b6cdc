#include "base/quantity.h"

#include <gtest/gtest.h>

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

TEST(QuantityTest, ShowsFourDigits) {
  EXPECT_EQ(FormatBytes(14'484'000'000), "14.48 GB");
  EXPECT_EQ(FormatBytes(131'072), "131.1 kB");
  EXPECT_EQ(FormatBytes(-2'500'000), "-2.5 MB");
  EXPECT_EQ(FormatBytes(2'000'000'000'000), "2 TB");
  EXPECT_EQ(FormatBytes(0), "0 B");
}

}  // namespace
}  // namespace bora
