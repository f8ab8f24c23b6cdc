#include "base/flags/quantity.h"

#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace bora {
namespace {

// Digits of whole numbers.
constexpr char kDigits[] = "0123456789";
constexpr double kMaxExactDouble = 9007199254740992.0;  // 2^53
constexpr double kMaxBytes = 1152921504606846976.0;     // 2^60

// A number with its unit applied.
struct Amount {
  double value = 0;  // in units of bits or bytes
  bool is_bits = false;
};

// The factor of "", "k", "M", "Gi" and so on; nullopt for other text.
std::optional<double> PrefixFactor(absl::string_view prefix) {
  if (prefix.empty()) return 1;
  const bool is_binary = absl::ConsumeSuffix(&prefix, "i");
  if (prefix.size() != 1) return std::nullopt;
  // Both "k" and "K" are in use for the thousand.
  const size_t power = absl::string_view("kmgt").find(absl::ascii_tolower(prefix[0]));
  if (power == absl::string_view::npos) return std::nullopt;
  // Of the small letters only k is a prefix: "m" would be milli.
  if (absl::ascii_islower(prefix[0]) && prefix[0] != 'k') return std::nullopt;
  return std::pow(is_binary ? 1024.0 : 1000.0, static_cast<double>(power) + 1);
}

// A number, optional blanks, prefix and b or B; nullopt for other text.
std::optional<Amount> ParseAmount(absl::string_view text) {
  const size_t n_digits = std::min(text.find_first_not_of("0123456789."), text.size());
  absl::string_view unit = absl::StripLeadingAsciiWhitespace(text.substr(n_digits));
  Amount amount;
  if (!absl::SimpleAtod(text.substr(0, n_digits), &amount.value)) return std::nullopt;
  amount.is_bits = absl::ConsumeSuffix(&unit, "b");
  if (!amount.is_bits && !absl::ConsumeSuffix(&unit, "B")) return std::nullopt;
  const std::optional<double> factor = PrefixFactor(unit);
  if (!factor.has_value()) return std::nullopt;
  amount.value *= *factor;
  return amount;
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const std::optional<Amount> amount = ParseAmount(text);
  if (!amount.has_value() || amount->is_bits) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text,
                     "\" is not an amount of memory: a number and B, kB, MB, GB, TB, KiB, MiB, GiB "
                     "or TiB, as in 141GB"));
  }
  if (amount->value < 1 || amount->value > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" must be in [1B, 1048576TiB]"));
  }
  return static_cast<int64_t>(amount->value);
}

absl::StatusOr<double> ParseBytesPerSecond(absl::string_view text) {
  absl::string_view rate = text;
  absl::ConsumeSuffix(&rate, "/s");
  const std::optional<Amount> amount = ParseAmount(rate);
  if (!amount.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text,
                     "\" is not a rate: a number and Gb (bits) or GB (bytes) a second, as in 400Gb "
                     "or 50GB; k, M, G and T are understood"));
  }
  const double bytes_per_s = amount->is_bits ? amount->value / 8 : amount->value;
  if (bytes_per_s < 1 || bytes_per_s > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" must be in [1B, 1048576TiB] a second"));
  }
  return bytes_per_s;
}

absl::StatusOr<int64_t> ParseInteger(absl::string_view text) {
  absl::string_view digits = text;
  absl::ConsumePrefix(&digits, "-");
  if (digits.empty() || digits.find_first_not_of(kDigits) != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a whole number"));
  }
  int64_t value = 0;
  if (absl::SimpleAtoi(text, &value)) return value;
  return absl::OutOfRangeError(absl::StrCat("\"", text, "\" is not in [-2^63, 2^63 - 1]"));
}

absl::StatusOr<int64_t> ParseCount(absl::string_view text) {
  const size_t n_digits = std::min(text.find_first_not_of("0123456789."), text.size());
  if (n_digits == 0 || n_digits == text.size()) return ParseInteger(text);
  constexpr std::pair<absl::string_view, double> kSuffixes[] = {
      {"k", 1e3},     {"M", 1e6},        {"G", 1e9},           {"K", 1024.0},
      {"Ki", 1024.0}, {"Mi", 1048576.0}, {"Gi", 1073741824.0},
  };
  double value = 0;
  for (const auto& [suffix, factor] : kSuffixes) {
    if (text.substr(n_digits) != suffix) continue;
    if (!absl::SimpleAtod(text.substr(0, n_digits), &value)) break;
    value *= factor;
    if (value != std::floor(value) || value > kMaxExactDouble) break;
    return static_cast<int64_t>(value);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a whole number, also as 8k (8000) or 8K (8192)"));
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text, absl::Duration bare_unit) {
  absl::Duration duration;
  double number = 0;
  const bool is_amount = !text.empty() && text.find_first_not_of("0123456789.numsh") == text.npos;
  if (is_amount && text.find_first_not_of("0123456789.") == text.npos &&
      absl::SimpleAtod(text, &number)) {
    return number * bare_unit;
  }
  if (is_amount && absl::ParseDuration(text, &duration)) return duration;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text,
                   "\" is not a length of time: a number with ms, s, m or h, as in 5s, "
                   "500ms and 1m30s"));
}

std::string FormatBytes(int64_t n_bytes) {
  const double bytes = static_cast<double>(n_bytes);
  if (std::abs(bytes) >= 1e12) return absl::StrFormat("%.4g TB", bytes / 1e12);
  if (std::abs(bytes) >= 1e9) return absl::StrFormat("%.4g GB", bytes / 1e9);
  if (std::abs(bytes) >= 1e6) return absl::StrFormat("%.4g MB", bytes / 1e6);
  if (std::abs(bytes) >= 1e3) return absl::StrFormat("%.4g kB", bytes / 1e3);
  return absl::StrFormat("%d B", n_bytes);
}

}  // namespace bora
