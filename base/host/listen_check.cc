#include "base/host/listen_check.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/host/host_port.h"
#include "base/host/unique_fd.h"

namespace bora {
namespace {

absl::Status Failed(const std::string& address, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", why));
}

std::string BindError(int error, int port) {
  switch (error) {
    case EADDRINUSE:
      return absl::StrCat("port ", port, " is in use by another process");
    case EACCES:
      return absl::StrCat("no permission to bind port ", port);
    case EADDRNOTAVAIL:
      return "no interface of this host has that address";
    default:
      return std::strerror(error);
  }
}

// Binds and closes a socket. 0, or the errno of the first call that failed. SO_REUSEADDR as gRPC
// sets it, so that connections in TIME_WAIT do not count as "in use".
int TryBind(const addrinfo& info) {
  const UniqueFd fd(socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return errno;
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  return bind(fd.get(), info.ai_addr, info.ai_addrlen) == 0 ? 0 : errno;
}

// Checks the conditions under which gRPC can bind a Unix socket. An old socket file at `path` is no
// obstacle: gRPC removes it. Any other kind of file is.
absl::Status CheckUnixPath(const std::string& address, const std::string& path) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Failed(address, absl::StrCat("the path has ", path.size(), " bytes, at most ",
                                        sizeof(sockaddr_un::sun_path) - 1, " are possible"));
  }
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    return Failed(address, absl::StrCat(folder, ": ", std::strerror(errno)));
  }
  struct stat file;
  if (stat(path.c_str(), &file) == 0 && !S_ISSOCK(file.st_mode)) {
    return Failed(address, "there is a file of that name that is no socket");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCanListen(const std::string& address) {
  absl::string_view path = address;
  if (absl::StartsWith(address, "unix-abstract:")) return absl::OkStatus();
  if (absl::ConsumePrefix(&path, "unix:")) {
    absl::ConsumePrefix(&path, "//");
    return CheckUnixPath(address, std::string(path));
  }
  const auto [host, port] = SplitHostPort(address).value_or(HostPort{.host = address, .port = ""});
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) {
    return Failed(address,
                  absl::StrCat("the name ", host, " does not resolve: ",
                               code == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(code)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, &freeaddrinfo);
  int error = 0;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    const int bind_error = TryBind(*info);
    if (bind_error == 0) return absl::OkStatus();
    // A port in use is the better explanation than an address family that this host lacks.
    if (error == 0 || error == EAFNOSUPPORT) error = bind_error;
  }
  return Failed(address, BindError(error, std::atoi(port.c_str())));
}

absl::Status WhyNotListening(const std::string& address) {
  const absl::Status status = CheckCanListen(address);
  return status.ok() ? Failed(address, "it was in use, or gRPC has another reason") : status;
}

}  // namespace bora
