#include <sys/stat.h>
#include <sys/utsname.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "worker/comm/link/socket_util.h"
#include "worker/comm/mesh.h"

namespace bora {

absl::StatusOr<std::string> LocalHostId() {
  std::string boot_id;
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  if (!std::getline(file, boot_id)) {
    return absl::UnavailableError("cannot read /proc/sys/kernel/random/boot_id");
  }
  // Abstract unix sockets are reached within one network namespace only; its inode identifies it.
  struct stat network = {};
  if (stat("/proc/self/ns/net", &network) != 0) return ErrnoStatus("/proc/self/ns/net", errno);
  utsname names = {};
  if (uname(&names) != 0) return ErrnoStatus("uname", errno);
  return absl::StrCat(std::string(absl::StripAsciiWhitespace(boot_id)), "/", network.st_ino, "/",
                      names.nodename);
}

}  // namespace bora
