// Which instruction sets there are for the operations of a model, for people.
#pragma once

#include <string>

namespace bora {

// Instruction sets that the code of this build has forms for, by the worker's names (--isa):
// "portable, avx2, ...".
std::string BuiltInstructionSets();
// Those of them that this CPU has.
std::string HostInstructionSets();

}  // namespace bora
