#include "base/auth/credential.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/host/unique_fd.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Sorts the errors of open, fstat and read into the codes that the header promises.
absl::Status ErrnoStatus(absl::string_view name, int error_number) {
  const std::string message = absl::StrCat(name, ": ", strerror(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::Status CheckMode(absl::string_view name, const struct stat& info) {
  if (S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(name, " is a folder"));
  // Pipes (for example <(command) of a shell) have no mode that matters: only their two ends have
  // access.
  if (!S_ISREG(info.st_mode)) return absl::OkStatus();
  const mode_t mode = info.st_mode & 0777;
  // Root may let its group read: Kubernetes sets the group of a secret's file to the pod's fsGroup.
  const mode_t allowed = info.st_uid == 0 ? 0640 : 0600;
  if ((mode & 0077 & ~allowed) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrFormat("%s has mode %04o, so that others than its owner can read or change it: "
                      "chmod 600 (a Kubernetes secret: defaultMode 0400)",
                      name, mode));
}

absl::Status CheckLength(absl::string_view name, size_t n_bytes) {
  if (n_bytes < kMinCredentialBytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the credential has ", n_bytes,
                                                   " bytes, it needs ", kMinCredentialBytes,
                                                   " (openssl rand -hex 32 makes a good one)"));
  }
  if (n_bytes > kMaxCredentialBytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the credential has more than ",
                                                   kMaxCredentialBytes,
                                                   " bytes, the most there are"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadCredential(absl::string_view flag, const std::string& path) {
  if (path.empty()) {
    const char* value = std::getenv("BORA_WORKER_CREDENTIAL");
    if (value == nullptr || *value == '\0') return std::string();
    RETURN_IF_ERROR(CheckLength("BORA_WORKER_CREDENTIAL", strlen(value)));
    return std::string(value);
  }
  const std::string name = absl::StrCat(flag, " ", path);
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(name, errno);
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(name, errno);
  RETURN_IF_ERROR(CheckMode(name, info));
  // Room for the longest line, white space around it and its newline. A longer first line fills the
  // buffer and fails CheckLength.
  char buffer[kMaxCredentialBytes + 64];
  size_t n_bytes = 0;
  while (n_bytes < sizeof(buffer)) {
    const ssize_t n = read(fd.get(), buffer + n_bytes, sizeof(buffer) - n_bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(name, errno);
    if (n == 0) break;
    n_bytes += static_cast<size_t>(n);
    if (memchr(buffer, '\n', n_bytes) != nullptr) break;
  }
  absl::string_view line(buffer, n_bytes);
  line = absl::StripAsciiWhitespace(line.substr(0, line.find('\n')));
  if (line.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, n_bytes == 0 ? " is empty" : " has an empty first line"));
  }
  RETURN_IF_ERROR(CheckLength(name, line.size()));
  return std::string(line);
}

}  // namespace bora
