// How much memory of this host a worker may take.
#pragma once

#include <cstdint>

namespace bora {

// Bytes that this process may still allocate: what the machine has available, or what its control
// group leaves if that is less.
int64_t AvailableMemoryBytes();

}  // namespace bora
