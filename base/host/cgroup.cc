#include "base/host/cgroup.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace bora {
namespace {

// Version 1 has no word for "no limit": it shows the largest multiple of the page size below 2^63.
constexpr int64_t kNoLimit = int64_t{1} << 62;

// The first word of a file as a number; nullopt if the file is missing, or says "max" or a value >=
// kNoLimit.
std::optional<int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  if (!(file >> word) || !absl::SimpleAtoi(word, &value) || value >= kNoLimit) {
    return std::nullopt;
  }
  return value;
}

// The sum of the fields named `a` and `b` in a memory.stat file, which has lines such as
// "inactive_file 4096".
int64_t SumOfFields(const std::string& path, absl::string_view a, absl::string_view b) {
  std::ifstream file(path);
  int64_t sum = 0;
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == a || name == b) sum += value;
  }
  return sum;
}

// The limit of one group alone; nullopt if it has none. The lower of memory.max and memory.high
// counts: above memory.high the kernel slows the process down severely.
std::optional<CgroupMemory> MemoryOfGroup(const std::string& dir) {
  const auto file = [&dir](const char* name) { return absl::StrCat(dir, "/", name); };
  std::optional<int64_t> limit;
  for (const char* name : {"memory.max", "memory.high", "memory.limit_in_bytes"}) {
    const std::optional<int64_t> value = ReadNumber(file(name));
    if (value.has_value()) limit = std::min(*value, limit.value_or(*value));
  }
  if (!limit.has_value()) return std::nullopt;
  const std::optional<int64_t> current = ReadNumber(file("memory.current"));
  const bool is_v2 = current.has_value();
  const int64_t used = is_v2 ? *current : ReadNumber(file("memory.usage_in_bytes")).value_or(0);
  const int64_t droppable =
      is_v2 ? SumOfFields(file("memory.stat"), "inactive_file", "active_file")
            : SumOfFields(file("memory.stat"), "total_inactive_file", "total_active_file");
  const int64_t in_use = std::max<int64_t>(used - droppable, 0);
  return CgroupMemory{*limit, std::max<int64_t>(*limit - in_use, 0), dir};
}

// Appends `mount` + `path`, then each parent folder, up to and including `mount` itself.
void AppendDirs(const std::string& mount, std::string path, std::vector<std::string>* dirs) {
  while (true) {
    dirs->push_back(mount + path);
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return;
    path.resize(slash);
  }
}

}  // namespace

std::string CgroupMembership() {
  std::ifstream file("/proc/self/cgroup");
  std::ostringstream membership;
  membership << file.rdbuf();
  return membership.str();
}

std::vector<std::string> CgroupDirs(const std::string& root, absl::string_view membership,
                                    absl::string_view controller) {
  std::vector<std::string> dirs;
  for (const absl::string_view line : absl::StrSplit(membership, '\n')) {
    // A line is "0::/path" for version 2 and "4:cpu,cpuacct:/path" for version 1.
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    const std::string path = fields[2] == "/" ? "" : fields[2];
    if (fields[1].empty()) {
      AppendDirs(root, path, &dirs);
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    if (std::find(controllers.begin(), controllers.end(), controller) == controllers.end()) {
      continue;
    }
    // Version 1 mounts a hierarchy under the controller's name, under all names of the line, or
    // both.
    AppendDirs(absl::StrCat(root, "/", controller), path, &dirs);
    if (controllers.size() > 1) AppendDirs(absl::StrCat(root, "/", fields[1]), path, &dirs);
  }
  return dirs;
}

std::optional<CgroupMemory> LeastCgroupMemory(const std::string& root,
                                              absl::string_view membership) {
  std::optional<CgroupMemory> least;
  for (const std::string& dir : CgroupDirs(root, membership, "memory")) {
    std::optional<CgroupMemory> memory = MemoryOfGroup(dir);
    if (!memory.has_value()) continue;
    if (!least.has_value() || memory->left_bytes < least->left_bytes) least = std::move(memory);
  }
  return least;
}

}  // namespace bora
