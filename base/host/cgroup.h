// The control groups (cgroups) that limit the CPU time and memory of this process. Version 1 and
// version 2, nested groups included, as containers create them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace bora {

// Where control groups are mounted.
inline constexpr char kCgroupRoot[] = "/sys/fs/cgroup";

// The text of /proc/self/cgroup, which lists the groups of this process; empty if it cannot be
// read.
std::string CgroupMembership();

// The directories below `root` of the process's group for `controller` ("cpu" or "memory") and of
// all groups around it, innermost first. `root` is the folder where control groups are mounted,
// `membership` the text that CgroupMembership() returns. Some directories may not exist: a
// container may see its own group at the mount point, while `membership` names a path of the host.
std::vector<std::string> CgroupDirs(const std::string& root, absl::string_view membership,
                                    absl::string_view controller);

// The memory limit of the tightest group.
struct CgroupMemory {
  // Bytes that the group may hold.
  int64_t limit_bytes = 0;
  // Bytes that may still be allocated: the limit minus the memory in use, at least 0. File cache
  // does not count as in use, since the kernel drops it on demand.
  int64_t left_bytes = 0;
  std::string dir;  // directory of the group
};

// Of the process's group and all groups around it, the one with the fewest bytes left; nullopt if
// none has a limit. Reads memory.max, memory.high, memory.current and memory.stat in version 2, and
// memory.limit_in_bytes, memory.usage_in_bytes and memory.stat in version 1. Parameters as for
// CgroupDirs.
std::optional<CgroupMemory> LeastCgroupMemory(const std::string& root,
                                              absl::string_view membership);

}  // namespace bora
