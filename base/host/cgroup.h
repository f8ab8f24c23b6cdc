// The control groups that bound what this process may use, version 1 and 2, nested as containers
// nest them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace bora {

// Where control groups are mounted.
inline constexpr char kCgroupRoot[] = "/sys/fs/cgroup";

// The text of /proc/self/cgroup: which groups this process is in.
std::string CgroupMembership();

// The directories of the process's group for `controller` ("cpu", "memory") and of all groups that
// it is nested in, innermost first, below `root`, where control groups are mounted; `membership` as
// CgroupMembership. Some may not exist: a container may see its own group as the mount, and a path
// that means nothing below it.
std::vector<std::string> CgroupDirs(const std::string& root, absl::string_view membership,
                                    absl::string_view controller);

// What control groups leave of the memory.
struct CgroupMemory {
  int64_t limit_bytes = 0;
  // May still be taken: the limit less what is in use, where pages of files that the kernel can
  // drop do not count as in use. Never negative.
  int64_t left_bytes = 0;
  std::string dir;  // of the group that leaves least
};

// The group that leaves least, of the process's own and those that it is nested in; nullopt without
// a limit. Files: memory.max, memory.high, memory.current and memory.stat of version 2,
// memory.limit_in_bytes, memory.usage_in_bytes and memory.stat of version 1.
absl::optional<CgroupMemory> LeastCgroupMemory(const std::string& root,
                                               absl::string_view membership);

}  // namespace bora
