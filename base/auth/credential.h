// The secret that coordinator and workers share. Both programs read it with this function.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Limits of a credential's length in bytes. A shorter one could be guessed offline by trying all
// values against one recorded proof.
inline constexpr size_t kMinCredentialBytes = 16;
inline constexpr size_t kMaxCredentialBytes = 4096;

// Reads the credential from the first line of the file at `path`, without white space at both ends.
// If `path` is empty, reads the environment variable BORA_WORKER_CREDENTIAL instead, and returns an
// empty string if that is unset or empty. `flag` is the name of the flag that gave `path`; error
// messages begin with it. Errors:
//   NOT_FOUND            the file does not exist
//   PERMISSION_DENIED    the file cannot be read, or users other than its owner have access: its
//                        mode must be 0400 or 0600, or 0440 or 0640 if root owns it (a Kubernetes
//                        secret with defaultMode 0400 and an fsGroup)
//   INVALID_ARGUMENT     a folder, an empty first line, or a credential that is too short or too
//   long UNAVAILABLE          any other error, with the system's reason
absl::StatusOr<std::string> ReadCredential(absl::string_view flag, const std::string& path);

}  // namespace bora
