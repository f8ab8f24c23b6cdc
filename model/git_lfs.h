// Git LFS pointers: small text files that stand for the real ones until they are fetched.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace bora {

// Whether a file that begins with these bytes is such a pointer.
inline bool IsGitLfsPointer(absl::string_view begin) {
  return absl::StartsWith(begin, "version https://git-lfs.github.com/spec/");
}

inline absl::Status GitLfsPointerError() {
  return absl::InvalidArgumentError(
      "a Git LFS pointer instead of the file itself, which `git lfs pull` fetches");
}

}  // namespace bora
