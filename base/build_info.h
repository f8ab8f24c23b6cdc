// Which program this is. Coordinator and workers must agree on it, since their protocol may change
// between builds.
#pragma once

#include <string>

namespace bora {

// "0.1.0".
const char* BuildVersion();
// Commit that it was built from, with "-dirty" when files differed from it; "unknown" outside a git
// checkout.
const char* BuildCommit();
// "0.1.0+commit".
std::string BuildId();
// What --version prints, in four lines: program, version and commit; build type, compiler and CUDA;
// the instruction sets of the build and of this CPU.
std::string DescribeBuild(const std::string& program);

}  // namespace bora
