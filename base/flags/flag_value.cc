#include "base/flags/flag_value.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"

namespace bora {
namespace {

absl::Status OutOfLimits(absl::string_view limits) {
  return absl::OutOfRangeError(absl::StrCat("must be in ", limits));
}

}  // namespace

namespace flag_internal {

std::string IntegerLimits(int64_t min, int64_t max) {
  constexpr int64_t kLowest = std::numeric_limits<int32_t>::min();
  constexpr int64_t kHighest = std::numeric_limits<int32_t>::max();
  // The limits of the variable's type tell a user nothing.
  if (min <= kLowest && max >= kHighest) return "";
  if (max >= kHighest) return absl::StrCat("[", min, ", inf)");
  return absl::StrCat("[", min, ", ", max, "]");
}

absl::Status CheckInteger(const absl::StatusOr<int64_t>& value, int64_t min, int64_t max) {
  const std::string limits = absl::StrCat("[", min, ", ", max, "]");
  if (absl::IsOutOfRange(value.status())) return OutOfLimits(limits);
  RETURN_IF_ERROR(value.status());
  return *value >= min && *value <= max ? absl::OkStatus() : OutOfLimits(limits);
}

}  // namespace flag_internal

std::string LimitsText(const NumberLimits& limits) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (limits.min == -kInfinity && limits.max == kInfinity) return "";
  const char open = limits.excludes_min ? '(' : '[';
  if (limits.max == kInfinity) return absl::StrCat(std::string(1, open), limits.min, ", inf)");
  return absl::StrCat(std::string(1, open), limits.min, ", ", limits.max, "]");
}

absl::StatusOr<double> ReadNumber(const std::string& text, const NumberLimits& limits) {
  double number = 0;
  if (text.empty() || absl::ascii_isspace(text.front()) || absl::ascii_isspace(text.back()) ||
      !absl::SimpleAtod(text, &number)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a number"));
  }
  const std::string limits_text = LimitsText(limits);
  if (limits_text.empty()) return number;
  const bool is_above = limits.excludes_min ? number > limits.min : number >= limits.min;
  if (is_above && number <= limits.max) return number;
  return OutOfLimits(limits_text);
}

FlagValue TextFlag(std::string* variable, std::string form) {
  FlagValue value;
  value.form = std::move(form);
  value.default_text = *variable;
  value.read = [variable](const std::string& text) {
    *variable = text;
    return absl::OkStatus();
  };
  return value;
}

FlagValue ChoiceFlag(std::string* variable, std::vector<std::string> words) {
  FlagValue value;
  value.form = absl::StrJoin(words, "|");
  value.default_text = *variable;
  value.read = [variable, words = std::move(words)](const std::string& text) {
    if (std::find(words.begin(), words.end(), text) == words.end()) {
      const std::string others = absl::StrJoin(words.begin(), words.end() - 1, ", ");
      return absl::InvalidArgumentError(absl::StrCat("must be ", others, " or ", words.back()));
    }
    *variable = text;
    return absl::OkStatus();
  };
  return value;
}

FlagValue BooleanFlag(bool* variable) {
  FlagValue value;
  value.is_boolean = true;
  value.default_text = *variable ? "true" : "";
  value.read = [variable](const std::string& text) {
    const std::string word = absl::AsciiStrToLower(text);
    if (word == "true" || word == "1" || word == "yes" || word == "on") {
      *variable = true;
    } else if (word == "false" || word == "0" || word == "no" || word == "off") {
      *variable = false;
    } else {
      return absl::InvalidArgumentError("must be true or false");
    }
    return absl::OkStatus();
  };
  return value;
}

FlagValue BytesFlag(int64_t* variable, int64_t min, int64_t max) {
  FlagValue value;
  value.form = "SIZE";
  value.default_text = absl::StrCat(*variable);
  value.read = [variable, min, max](const std::string& text) {
    absl::StatusOr<int64_t> n_bytes = ParseInteger(text);
    if (absl::IsInvalidArgument(n_bytes.status())) {
      n_bytes = ParseBytes(text);
      RETURN_IF_ERROR(n_bytes.status());
    }
    const absl::Status status = flag_internal::CheckInteger(n_bytes, min, max);
    if (!status.ok()) return absl::Status(status.code(), absl::StrCat(status.message(), " bytes"));
    *variable = *n_bytes;
    return absl::OkStatus();
  };
  return value;
}

FlagValue DurationFlag(absl::Duration* variable, absl::Duration min, absl::Duration max,
                       absl::Duration bare_unit) {
  FlagValue value;
  value.form = "TIME";
  value.limits = absl::StrCat("[", absl::FormatDuration(min), ", ", absl::FormatDuration(max), "]");
  value.default_text = absl::FormatDuration(*variable);
  value.read = [variable, min, max, bare_unit, limits = value.limits](const std::string& text) {
    const absl::StatusOr<absl::Duration> duration = ParseDuration(text, bare_unit);
    RETURN_IF_ERROR(duration.status());
    if (*duration < min || *duration > max) return OutOfLimits(limits);
    *variable = *duration;
    return absl::OkStatus();
  };
  return value;
}

FlagValue ListFlag(std::vector<std::string>* variable, std::string form) {
  FlagValue value;
  value.form = std::move(form);
  value.read = [variable](const std::string& text) {
    *variable = text.empty() ? std::vector<std::string>{}
                             : std::vector<std::string>(absl::StrSplit(text, ','));
    return absl::OkStatus();
  };
  return value;
}

FlagValue RepeatedFlag(std::vector<std::string>* variable, std::string form) {
  FlagValue value;
  value.form = std::move(form);
  value.is_repeatable = true;
  value.read = [variable](const std::string& text) {
    variable->push_back(text);
    return absl::OkStatus();
  };
  return value;
}

FlagValue UnsignedFlag(uint64_t* variable) {
  FlagValue value;
  value.form = "N";
  value.default_text = absl::StrCat(*variable);
  value.read = [variable](const std::string& text) {
    uint64_t number = 0;
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos ||
        !absl::SimpleAtoi(text, &number)) {
      return absl::InvalidArgumentError("must be a whole number in [0, 18446744073709551615]");
    }
    *variable = number;
    return absl::OkStatus();
  };
  return value;
}

}  // namespace bora
