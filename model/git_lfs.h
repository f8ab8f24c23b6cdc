// Recognises Git LFS pointers: small text files that stand in a clone for large files that have not
// been downloaded.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace bora {

// Whether a file that begins with these bytes is a Git LFS pointer.
inline bool IsGitLfsPointer(absl::string_view begin) {
  return absl::StartsWith(begin, "version https://git-lfs.github.com/spec/");
}

// The error for such a file: INVALID_ARGUMENT with the command that downloads the real one.
inline absl::Status GitLfsPointerError() {
  return absl::InvalidArgumentError(
      "a Git LFS pointer instead of the file itself, which `git lfs pull` fetches");
}

}  // namespace bora
