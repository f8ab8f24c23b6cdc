// What a flag of a command line takes: how its text is read into a variable, and what --help says
// of its form, its limits and its default. Numbers outside their limits are errors, never clamped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/flags/quantity.h"
#include "base/status_macros.h"

namespace bora {

// How one flag is read. The variable that it sets outlives it.
struct FlagValue {
  std::string form;    // "N", "DIR", "auto|dummy"; empty for a boolean
  std::string limits;  // "[1, 4096]"; empty: none
  // What holds without the flag, for --help; empty: nothing to say.
  std::string default_text;
  // Sets the variable. The error says what is wrong with the text, without the flag's name.
  std::function<absl::Status(const std::string& text)> read;
  bool is_boolean = false;
  bool is_repeatable = false;  // each occurrence is read

  // The same with another default in words, as for a variable whose 0 means something.
  FlagValue Default(std::string text) && {
    default_text = std::move(text);
    return std::move(*this);
  }
};

// Any text; `form` is what it stands for.
FlagValue TextFlag(std::string* variable, std::string form);
// One of the words.
FlagValue ChoiceFlag(std::string* variable, std::vector<std::string> words);
// true, false, 1, 0, yes, no, on or off; without a value true.
FlagValue BooleanFlag(bool* variable);
// Bytes as ParseBytes reads them, or a whole number of bytes.
FlagValue BytesFlag(int64_t* variable, int64_t min, int64_t max);
// A length of time in [min, max]; a bare number counts `bare_unit`s.
FlagValue DurationFlag(absl::Duration* variable, absl::Duration min, absl::Duration max,
                       absl::Duration bare_unit = absl::Seconds(1));
// Texts with commas between them.
FlagValue ListFlag(std::vector<std::string>* variable, std::string form);
// Each occurrence adds a text.
FlagValue RepeatedFlag(std::vector<std::string>* variable, std::string form);

// Limits of a number that is not whole.
struct NumberLimits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool excludes_min = false;
};
absl::StatusOr<double> ReadNumber(const std::string& text, const NumberLimits& limits);
std::string LimitsText(const NumberLimits& limits);

namespace flag_internal {

template <typename T>
struct Unwrapped {
  using type = T;
};
template <typename T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};

template <typename T>
std::string DefaultText(const T& value) {
  return absl::StrCat(value);
}
template <typename T>
std::string DefaultText(const std::optional<T>& value) {
  return value.has_value() ? absl::StrCat(*value) : "";
}

absl::Status CheckInteger(const absl::StatusOr<int64_t>& value, int64_t min, int64_t max);
std::string IntegerLimits(int64_t min, int64_t max);

// `parse` reads the text as int64.
template <typename V>
FlagValue WholeNumber(V* variable, int64_t min, int64_t max,
                      absl::StatusOr<int64_t> (*parse)(absl::string_view)) {
  FlagValue value;
  value.form = "N";
  value.limits = IntegerLimits(min, max);
  value.default_text = DefaultText(*variable);
  value.read = [variable, min, max, parse](const std::string& text) {
    const absl::StatusOr<int64_t> number = parse(text);
    absl::Status status = CheckInteger(number, min, max);
    if (status.ok()) *variable = static_cast<typename Unwrapped<V>::type>(*number);
    return status;
  };
  return value;
}

}  // namespace flag_internal

// A whole number in [min, max], which must fit into the variable: an integer or an optional of one.
template <typename V>
FlagValue IntegerFlag(
    V* variable,
    int64_t min = std::numeric_limits<typename flag_internal::Unwrapped<V>::type>::min(),
    int64_t max = static_cast<int64_t>(
        std::min<uint64_t>(std::numeric_limits<typename flag_internal::Unwrapped<V>::type>::max(),
                           std::numeric_limits<int64_t>::max()))) {
  return flag_internal::WholeNumber(variable, min, max, &ParseInteger);
}

// The same for numbers of tokens or requests, which may have a suffix: 8k, 8K (ParseCount).
template <typename V>
FlagValue CountFlag(V* variable, int64_t min, int64_t max) {
  return flag_internal::WholeNumber(variable, min, max, &ParseCount);
}

// A number; the variable is a float, a double or an optional of one.
template <typename V>
FlagValue NumberFlag(V* variable, NumberLimits limits = {}) {
  FlagValue value;
  value.form = "X";
  value.limits = LimitsText(limits);
  value.default_text = flag_internal::DefaultText(*variable);
  value.read = [variable, limits](const std::string& text) {
    const absl::StatusOr<double> number = ReadNumber(text, limits);
    if (number.ok()) *variable = static_cast<typename flag_internal::Unwrapped<V>::type>(*number);
    return number.status();
  };
  return value;
}

// Any number of 64 bits without a sign.
FlagValue UnsignedFlag(uint64_t* variable);

// Whole numbers in [min, max], which must fit into T, with commas between them.
template <typename T>
FlagValue IntegerListFlag(std::vector<T>* variable, int64_t min, int64_t max) {
  FlagValue value;
  value.form = "N,N,...";
  value.read = [variable, min, max](const std::string& text) {
    std::vector<T> numbers;
    for (const absl::string_view word : absl::StrSplit(text, ',')) {
      if (text.empty()) break;
      const absl::StatusOr<int64_t> number = ParseInteger(word);
      const absl::Status status = flag_internal::CheckInteger(number, min, max);
      if (!status.ok()) return Annotate(status, absl::StrCat("'", word, "'"));
      numbers.push_back(static_cast<T>(*number));
    }
    *variable = std::move(numbers);
    return absl::OkStatus();
  };
  return value;
}

}  // namespace bora
