#include "absl/strings/str_cat.h"
#include "tests/property/same_bytes.h"
#include "tests/worker/tiny_model.h"

namespace bora {

const int kSameBytesPool = 150;

std::vector<SameBytesLayout> SameBytesLayouts() {
  std::vector<SameBytesLayout> layouts = {
      {"", 1, 1, WeightFormat::kF32, 500},  {"", 1, 1, WeightFormat::kBf16, 300},
      {"", 1, 1, WeightFormat::kInt8, 100}, {"", 2, 2, WeightFormat::kBf16, 150},
      {"", 2, 1, WeightFormat::kInt8, 60},  {"", 4, 1, WeightFormat::kF32, 60},
      {"", 1, 2, WeightFormat::kF32, 60},   {"", 1, 4, WeightFormat::kBf16, 60},
      {"", 8, 1, WeightFormat::kBf16, 60}};  // pairs of ranks hold copies of a KV head
  for (SameBytesLayout& layout : layouts) {
    layout.name =
        absl::StrCat("Tp", layout.tp_size, "Pp", layout.pp_size, FormatName(layout.format));
  }
  return layouts;
}

LocalGroupOptions GroupOf(const SameBytesLayout& layout) {
  return {.tp_size = layout.tp_size,
          .pp_size = layout.pp_size,
          .limits = TinyLimits(),
          .precision = PrecisionOf(layout.format),
          .rank = {.poison_kv = true}};
}

}  // namespace bora
