#include "worker/host_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace bora {
namespace {

int64_t ReadNumber(const char* path, absl::string_view after) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (!after.empty() && word != after) continue;
    if (!after.empty() && !(file >> word)) break;
    int64_t value = 0;
    return absl::SimpleAtoi(word, &value) ? value : -1;
  }
  return -1;
}

}  // namespace

int64_t AvailableMemoryBytes() {
  const int64_t available_kib = ReadNumber("/proc/meminfo", "MemAvailable:");
  int64_t bytes = available_kib > 0 ? available_kib * 1024 : int64_t{1} << 30;
  const int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max", "");
  const int64_t used = ReadNumber("/sys/fs/cgroup/memory.current", "");
  if (limit > 0 && used >= 0) bytes = std::min(bytes, std::max<int64_t>(limit - used, 0));
  return bytes;
}

}  // namespace bora
