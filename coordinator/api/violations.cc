#include "coordinator/api/violations.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "coordinator/api/api_errors.h"

namespace bora {
namespace {

// The sentence about a violation, without the field.
std::string Describe(absl::string_view value, absl::string_view limit) {
  return absl::StrCat("is ", value, "; it must be ", limit);
}

}  // namespace

void Violations::AddInvalid(std::string field, std::string value, std::string limit) {
  any_invalid_ = true;
  violations_.push_back({std::move(field), std::move(value), std::move(limit)});
}

void Violations::AddLimit(std::string field, std::string value, std::string limit) {
  violations_.push_back({std::move(field), std::move(value), std::move(limit)});
}

void Violations::CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  AddInvalid(std::string(field), absl::StrCat(value), absl::StrCat("in [", low, ", ", high, "]"));
}

ApiError Violations::TakeError() {
  CHECK(!violations_.empty());
  ApiError error =
      MakeApiError(any_invalid_ ? ErrorKind::kInvalidField : ErrorKind::kFieldLimit, "");
  const int n_violations = static_cast<int>(violations_.size());
  const int n_shown = std::min(n_violations, kMaxInMessage);
  for (int i = 0; i < n_shown; ++i) {
    const Entry& entry = violations_[i];
    absl::StrAppend(&error.message, i == 0 ? "" : "; ", entry.field, " ",
                    Describe(entry.value, entry.limit));
    // "field", "value", "limit", then "field2" and so on.
    const std::string suffix = i == 0 ? "" : absl::StrCat(i + 1);
    error.metadata[absl::StrCat("field", suffix)] = entry.field;
    error.metadata[absl::StrCat("value", suffix)] = entry.value;
    error.metadata[absl::StrCat("limit", suffix)] = entry.limit;
  }
  if (n_violations > n_shown) {
    const std::string n_more = absl::StrCat(n_violations - n_shown);
    absl::StrAppend(&error.message, "; and ", n_more, " more");
    error.metadata["moreViolations"] = n_more;
  }
  for (Entry& entry : violations_) {
    error.violations.push_back({std::move(entry.field), Describe(entry.value, entry.limit)});
  }
  violations_.clear();
  return error;
}

std::string FloatText(float value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end.ptr);
}

std::string Excerpt(absl::string_view text) {
  std::string excerpt(text.substr(0, 64));
  for (char& c : excerpt) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  if (text.size() > excerpt.size()) excerpt += "...";
  return excerpt;
}

}  // namespace bora
