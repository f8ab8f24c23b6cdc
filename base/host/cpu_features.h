// Names of CPU instruction sets for --version: of this build and of this CPU. Informative only;
// kernels choose by their own check.
#pragma once

#include <string>

namespace bora {

// The instruction sets that this build has code for, by the names of the worker's flag --isa, for
// example "portable, avx2, avx512, avx512bf16".
std::string BuiltInstructionSets();
// The subset of BuiltInstructionSets() that this CPU supports.
std::string HostInstructionSets();

}  // namespace bora
