// How much memory of this host a worker may take.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace bora {

// Bytes that this process may still allocate: what the machine has available, or what its control
// groups leave (LeastCgroupMemory) if that is less. Pages of files that the kernel can drop count
// as available in both.
int64_t AvailableMemoryBytes();

// The same of another machine: the text of its /proc/meminfo, and of its control groups as
// LeastCgroupMemory takes them.
int64_t AvailableMemoryBytes(absl::string_view meminfo, const std::string& cgroup_root,
                             absl::string_view membership);

// Where the bound on AvailableMemoryBytes comes from, for messages: "the machine", or "control
// group DIR, limit N bytes".
std::string MemoryBoundText();

}  // namespace bora
