#include "base/number_formats.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace bora {
namespace {

// InfoOf uses an enumerator as an index, so the order of each table must be that of its enum.
constexpr bool TablesFollowTheirEnums() {
  int i = 0;
  for (const DTypeInfo& info : kDTypes) {
    if (static_cast<int>(info.dtype) != i++) return false;
  }
  i = 0;
  for (const WeightFormatInfo& info : kWeightFormats) {
    if (static_cast<int>(info.format) != i++) return false;
  }
  return true;
}
static_assert(TablesFollowTheirEnums());

// INVALID_ARGUMENT that lists the `known` names: "quantization is 'int3', supported is int8".
absl::Status UnknownName(absl::string_view what, absl::string_view name,
                         const std::vector<std::string>& known) {
  return absl::InvalidArgumentError(absl::StrCat(what, " is '", name, "', supported ",
                                                 known.size() == 1 ? "is " : "are ",
                                                 ListOfNames(known, "and")));
}

}  // namespace

absl::StatusOr<DType> ParseDType(absl::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return UnknownName("dtype", name, DTypeNames());
}

absl::StatusOr<WeightFormat> ParseWeightFormat(DType dtype, absl::string_view quantization) {
  if (quantization.empty()) return InfoOf(dtype).weights;
  for (const WeightFormatInfo& info : kWeightFormats) {
    if (info.is_quantization && info.name == quantization) return info.format;
  }
  return UnknownName("quantization", quantization, QuantizationNames());
}

std::vector<std::string> DTypeNames() {
  std::vector<std::string> names;
  for (const DTypeInfo& info : kDTypes) names.emplace_back(info.name);
  return names;
}

std::vector<std::string> DTypeShortNames() {
  std::vector<std::string> names;
  for (const DTypeInfo& info : kDTypes) names.emplace_back(info.short_name);
  return names;
}

std::vector<std::string> QuantizationNames() {
  std::vector<std::string> names;
  for (const WeightFormatInfo& info : kWeightFormats) {
    if (info.is_quantization) names.emplace_back(info.name);
  }
  return names;
}

std::string ListOfNames(const std::vector<std::string>& names, absl::string_view word) {
  if (names.size() < 2) return absl::StrJoin(names, "");
  return absl::StrCat(absl::StrJoin(names.begin(), names.end() - 1, ", "), " ", word, " ",
                      names.back());
}

}  // namespace bora
