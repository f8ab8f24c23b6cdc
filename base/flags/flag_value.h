// The type of a flag: how its text is read into a variable, and what --help says about form, limits
// and default. A number outside its limits is an error, never clamped.
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

// How one flag is read. The functions below make one for each type; each keeps a pointer to the
// variable, which must outlive it and whose value at that time is the default. A plain value.
struct FlagValue {
  std::string form;    // shown after the name: "N", "DIR", "auto|dummy"; empty for a boolean
  std::string limits;  // "[1, 4096]" for --help; empty: no limits
  // The value used if the flag is not given, for --help; empty: nothing is shown.
  std::string default_text;
  // Reads `text` into the variable. On an error the message says what is wrong with the text,
  // without the flag's name.
  std::function<absl::Status(const std::string& text)> read;
  bool is_boolean = false;
  bool is_repeatable = false;  // may be given several times; `read` is called for each

  // The same value with another default text, for a variable whose 0, for example, means "none".
  FlagValue Default(std::string text) && {
    default_text = std::move(text);
    return std::move(*this);
  }
};

// Any text. `form` names it in --help.
FlagValue TextFlag(std::string* variable, std::string form);
// One of `words`, spelt exactly so.
FlagValue ChoiceFlag(std::string* variable, std::vector<std::string> words);
// true, false, 1, 0, yes, no, on or off, in any case. The flag alone means true.
FlagValue BooleanFlag(bool* variable);
// A number of bytes in [min, max]: a bare whole number, or a number with a unit (ParseBytes).
FlagValue BytesFlag(int64_t* variable, int64_t min, int64_t max);
// A length of time in [min, max] (ParseDuration). A bare number counts `bare_unit`s.
FlagValue DurationFlag(absl::Duration* variable, absl::Duration min, absl::Duration max,
                       absl::Duration bare_unit = absl::Seconds(1));
// A list of texts with commas between them; the empty text is the empty list.
FlagValue ListFlag(std::vector<std::string>* variable, std::string form);
// A flag that may be repeated; each occurrence appends a text.
FlagValue RepeatedFlag(std::vector<std::string>* variable, std::string form);

// Limits of a number that need not be whole. An infinite limit does not bound.
struct NumberLimits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool excludes_min = false;  // `min` itself is not allowed
};
// Reads a number and checks the limits. INVALID_ARGUMENT if the text is no number, OUT_OF_RANGE if
// it is outside the limits.
absl::StatusOr<double> ReadNumber(const std::string& text, const NumberLimits& limits);
// "(0, 1]"; empty if there are no limits.
std::string LimitsText(const NumberLimits& limits);

namespace flag_internal {

// T, or the T of an optional<T>.
template <typename T>
struct Unwrapped {
  using type = T;
};
template <typename T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};

// The default for --help; empty for an empty optional.
template <typename T>
std::string DefaultText(const T& value) {
  return absl::StrCat(value);
}
template <typename T>
std::string DefaultText(const std::optional<T>& value) {
  return value.has_value() ? absl::StrCat(*value) : "";
}

// OK if `value` is a number in [min, max]. OUT_OF_RANGE if it is not, also if it did not fit in
// int64; other errors of `value` are passed on.
absl::Status CheckInteger(const absl::StatusOr<int64_t>& value, int64_t min, int64_t max);
// "[1, 8]"; a bound at or beyond the limits of int32 is not shown.
std::string IntegerLimits(int64_t min, int64_t max);

// A flag for a whole number that `parse` reads.
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

// A whole number in [min, max], without suffix (ParseInteger). The variable is an integer or an
// optional integer. REQUIRES: min and max fit in the variable's type.
template <typename V>
FlagValue IntegerFlag(
    V* variable,
    int64_t min = std::numeric_limits<typename flag_internal::Unwrapped<V>::type>::min(),
    int64_t max = static_cast<int64_t>(
        std::min<uint64_t>(std::numeric_limits<typename flag_internal::Unwrapped<V>::type>::max(),
                           std::numeric_limits<int64_t>::max()))) {
  return flag_internal::WholeNumber(variable, min, max, &ParseInteger);
}

// The same for numbers of tokens or requests, which may have a suffix: 8k or 8K (ParseCount).
template <typename V>
FlagValue CountFlag(V* variable, int64_t min, int64_t max) {
  return flag_internal::WholeNumber(variable, min, max, &ParseCount);
}

// A number that need not be whole. The variable is a float, a double or an optional of one.
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

// A whole number in [0, 2^64), without suffix.
FlagValue UnsignedFlag(uint64_t* variable);

// A list of whole numbers in [min, max], with commas between them; the empty text is the empty
// list. REQUIRES: min and max fit in T. One wrong number leaves the variable unchanged.
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
