// The secret that coordinator and workers share, as both programs read it.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Bytes of a credential. Fewer could be guessed from one proof of it, by trying them all.
inline constexpr size_t kMinCredentialBytes = 16;
inline constexpr size_t kMaxCredentialBytes = 4096;

// The first line of the file at `path`, without blanks around it; with an empty path the
// environment variable BORA_WORKER_CREDENTIAL, empty where there is none. Errors name `flag`, where
// the path came from:
//   NOT_FOUND            there is no such file
//   PERMISSION_DENIED    it may not be read, or others may read it: the mode has to be 0400 or
//                        0600, or 0440 or 0640 if root owns it (a Kubernetes secret with
//                        defaultMode 0400 and an fsGroup)
//   INVALID_ARGUMENT     it has no first line, or one that is too short or too long
//   UNAVAILABLE          anything else, with the system's reason
absl::StatusOr<std::string> ReadCredential(absl::string_view flag, const std::string& path);

}  // namespace bora
