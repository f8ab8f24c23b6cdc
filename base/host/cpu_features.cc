#include "base/host/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <vector>

#include "absl/strings/str_join.h"

namespace bora {
namespace {

#if defined(__x86_64__)
// Conversions of float16: bit 29 of ECX of leaf 1; clang 14 has no name for it. The instruction is
// executed once: under a hypervisor it takes microseconds.
bool HasF16c() {
  static const bool has = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
  }();
  return has;
}
#endif

// One instruction set, with its name for --isa.
struct InstructionSet {
  const char* name;
  bool is_here;
};

// In ascending order of preference; "portable" always first.
std::vector<InstructionSet> InstructionSets() {
  std::vector<InstructionSet> sets = {{"portable", true}};
#if defined(__x86_64__)
  sets.push_back({"avx2", HasAvx2()});
  sets.push_back({"avx512", HasAvx512()});
  sets.push_back({"avx512bf16", HasAvx512Bf16()});
#endif
  return sets;
}

}  // namespace

#if defined(__x86_64__)
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool HasAvx512Bf16() {
  return HasAvx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}
#else
bool HasAvx2() { return false; }
bool HasAvx512() { return false; }
bool HasAvx512Bf16() { return false; }
#endif

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
