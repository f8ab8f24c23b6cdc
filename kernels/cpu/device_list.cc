#include "kernels/cpu/device_list.h"

#include <thread>

#include "absl/strings/str_cat.h"

namespace bora {

std::vector<std::string> ListDevices(const SimdChoice& simd) {
  std::string levels;
  for (SimdLevel level : AvailableSimdLevels()) {
    absl::StrAppend(&levels, levels.empty() ? "" : ", ", SimdLevelName(level));
  }
  return {absl::StrCat("cpu: ", std::thread::hardware_concurrency(), " threads, ",
                       DescribeSimdChoice(simd), " (has ", levels, ")")};
}

}  // namespace bora
