// Which build this program is. The coordinator accepts a worker only if both have the same build
// id, since their protocol may change between builds.
#pragma once

#include <string>

namespace bora {

// The version of the source, for example "0.1.0".
const char* BuildVersion();
// The git commit of the source, with "-dirty" if files differed from that commit when it was
// built; "unknown" if the source was no git checkout.
const char* BuildCommit();
// Version and commit: "0.1.0+<commit>".
std::string BuildId();
// The text that --version prints, four lines without a final newline: program, version and commit;
// build type, compiler and CUDA; instruction sets of this build; instruction sets of this CPU.
std::string DescribeBuild(const std::string& program);

}  // namespace bora
