// Describes the CPU of this host in text for people, for the list of devices that a worker could
// run on.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/simd/simd_choice.h"

namespace bora {

// One line such as "cpu: 8 threads, avx512bf16 (has avx512bf16, avx512, avx2, portable)": the
// host's hardware threads, the choice of instruction sets, and the available levels.
std::vector<std::string> ListDevices(const SimdChoice& simd);

}  // namespace bora
