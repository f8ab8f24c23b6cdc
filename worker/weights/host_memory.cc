#include "worker/weights/host_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/host/cgroup.h"

namespace bora {
namespace {

// Assumed for a machine whose /proc/meminfo does not tell MemAvailable.
constexpr int64_t kUnknownBytes = int64_t{1} << 30;

// The text of /proc/meminfo; empty if it cannot be read.
std::string MemInfo() {
  std::ifstream file("/proc/meminfo");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Returns MemAvailable of the text of /proc/meminfo in bytes; the file has it in KiB.
int64_t MachineBytes(absl::string_view meminfo) {
  for (const absl::string_view line : absl::StrSplit(meminfo, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t kib = 0;
    if (words.size() >= 2 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &kib)) {
      return kib * 1024;
    }
  }
  return kUnknownBytes;
}

}  // namespace

int64_t AvailableMemoryBytes(absl::string_view meminfo, const std::string& cgroup_root,
                             absl::string_view membership) {
  const int64_t machine_bytes = MachineBytes(meminfo);
  const std::optional<CgroupMemory> group = LeastCgroupMemory(cgroup_root, membership);
  return group.has_value() ? std::min(machine_bytes, group->left_bytes) : machine_bytes;
}

int64_t AvailableMemoryBytes() {
  return AvailableMemoryBytes(MemInfo(), kCgroupRoot, CgroupMembership());
}

std::string MemoryBoundText() {
  const std::optional<CgroupMemory> group = LeastCgroupMemory(kCgroupRoot, CgroupMembership());
  if (!group.has_value() || group->left_bytes > MachineBytes(MemInfo())) return "the machine";
  return absl::StrCat("control group ", group->dir, ", limit ", group->limit_bytes, " bytes");
}

}  // namespace bora
