// How much more memory of this host a worker may allocate. Thread-safe: every call reads the files
// of the kernel anew.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace bora {

// Returns the bytes that this process may still allocate: the available memory of the machine, or
// what the limits of the process's control groups leave (LeastCgroupMemory) if that is less. Cached
// pages of files count as available, since the kernel can drop them. 1 GiB stands for a machine
// that does not tell its memory.
int64_t AvailableMemoryBytes();

// The same computed from given inputs, for tests: `meminfo` is the text of /proc/meminfo;
// cgroup_root and `membership` are the parameters of LeastCgroupMemory.
int64_t AvailableMemoryBytes(absl::string_view meminfo, const std::string& cgroup_root,
                             absl::string_view membership);

// Names what bounds AvailableMemoryBytes() now, for messages: "the machine", or "control group DIR,
// limit N bytes".
std::string MemoryBoundText();

}  // namespace bora
