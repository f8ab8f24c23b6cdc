// The CPU of this host, for people: what a worker could run on.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/simd/simd_choice.h"

namespace bora {

// "cpu: 8 threads, avx512bf16 (has avx512bf16, avx512, avx2, portable)".
std::vector<std::string> ListDevices(const SimdChoice& simd);

}  // namespace bora
