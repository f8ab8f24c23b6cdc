// Names of CPU instruction sets for --version: of this build and of this CPU. Informative only;
// kernels choose by their own check.
#pragma once

#include <string>

namespace bora {

// Whether this CPU can run the inner loops that are compiled for an instruction set: AVX2 with FMA
// and F16C; AVX-512 F, BW, VL and DQ beside those; AVX-512 BF16 and VNNI beside those. False on
// other architectures than x86-64.
bool HasAvx2();
bool HasAvx512();
bool HasAvx512Bf16();

// The instruction sets that this build has code for, by the names of the worker's flag --isa, for
// example "portable, avx2, avx512, avx512bf16".
std::string BuiltInstructionSets();
// The subset of BuiltInstructionSets() that this CPU supports.
std::string HostInstructionSets();

}  // namespace bora
