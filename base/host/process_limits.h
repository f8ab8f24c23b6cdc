// Limits of this process that an operator sets and a server must live within.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace bora {

struct DescriptorLimit {
  int64_t soft = 0;  // what holds
  int64_t hard = 0;  // what it could be raised to
};

// Raises the soft limit of open descriptors to the hard one, where that is allowed, and returns
// what holds then. Call from main.
DescriptorLimit RaiseDescriptorLimit();

struct DescriptorNeeds {
  int64_t to_start = 0;      // below this the process cannot work
  int64_t at_full_load = 0;  // when everything that its limits allow happens at once
};

// RESOURCE_EXHAUSTED with both numbers if the limit is below what the process needs to start; a
// warning in the log with both numbers if it is below what it needs at full load.
absl::Status CheckDescriptors(const DescriptorLimit& limit, const DescriptorNeeds& needs);

// Open descriptors of this process; costs a look at each.
int64_t OpenDescriptorCount();

}  // namespace bora
