// The limit of open file descriptors, which an operator sets (ulimit -n) and a server must stay
// within.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace bora {

// RLIMIT_NOFILE of this process, in descriptors.
struct DescriptorLimit {
  int64_t soft = 0;  // the limit in force
  int64_t hard = 0;  // the greatest value that `soft` may be raised to
};

// Raises the soft limit to the hard limit if the system allows it, and returns the limits in force
// afterwards. Call from main.
DescriptorLimit RaiseDescriptorLimit();

// Descriptors that a process needs.
struct DescriptorNeeds {
  int64_t to_start = 0;      // below this the process cannot start
  int64_t at_full_load = 0;  // if all connections and files that its flags allow are open at once
};

// RESOURCE_EXHAUSTED, with both numbers, if limit.soft < needs.to_start. Logs a warning, with both
// numbers, if limit.soft < needs.at_full_load.
absl::Status CheckDescriptors(const DescriptorLimit& limit, const DescriptorNeeds& needs);

// Number of open descriptors of this process; 0 if /proc cannot be read. Takes time linear in the
// result.
int64_t OpenDescriptorCount();

}  // namespace bora
