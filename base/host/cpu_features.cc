#include "base/host/cpu_features.h"

#include <vector>

#include "absl/strings/str_join.h"

namespace bora {
namespace {

// One instruction set, with its name for --isa.
struct InstructionSet {
  const char* name;
  bool is_here;
};

// In ascending order of preference; "portable" always first.
std::vector<InstructionSet> InstructionSets() {
  std::vector<InstructionSet> sets = {{"portable", true}};
#if defined(__x86_64__)
  sets.push_back({"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
  sets.push_back(
      {"avx512", __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")});
  sets.push_back({"avx512bf16", sets.back().is_here && __builtin_cpu_supports("avx512bf16") &&
                                    __builtin_cpu_supports("avx512vnni")});
#endif
  return sets;
}

}  // namespace

std::string BuiltInstructionSets() {
  std::vector<const char*> names;
  for (const InstructionSet& set : InstructionSets()) names.push_back(set.name);
  return absl::StrJoin(names, ", ");
}

std::string HostInstructionSets() {
  std::vector<const char*> names;
  for (const InstructionSet& set : InstructionSets()) {
    if (set.is_here) names.push_back(set.name);
  }
  return absl::StrJoin(names, ", ");
}

}  // namespace bora
