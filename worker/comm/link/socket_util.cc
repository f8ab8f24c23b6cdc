#include "worker/comm/link/socket_util.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/host/host_port.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// The handshake sends the memfd and the doorbell together; no message carries more.
constexpr int kMaxFdsPerMessage = 2;

absl::Status SetOption(int fd, int level, int name, int value, const char* what) {
  if (setsockopt(fd, level, name, &value, sizeof(value)) != 0) return ErrnoStatus(what, errno);
  return absl::OkStatus();
}

// Waits until `fd` has one of `events`, an error or a hang-up: the call that follows finds out
// which. DEADLINE_EXCEEDED at `deadline`, ABORTED when `abort_fd` becomes readable.
absl::Status WaitFor(int fd, short events, SteadyTime deadline, int abort_fd) {
  while (true) {
    pollfd fds[2] = {{fd, events, 0}, {abort_fd, POLLIN, 0}};
    const int n = poll(fds, 2, PollTimeoutMs(deadline));
    if (n < 0 && errno != EINTR) return ErrnoStatus("poll", errno);
    if (n > 0 && fds[1].revents != 0) return absl::AbortedError("aborted");
    if (n > 0 && fds[0].revents != 0) return absl::OkStatus();
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError("no answer");
  }
}

}  // namespace

absl::Status ErrnoStatus(const std::string& what, int error_number) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(error_number)));
}

absl::StatusOr<UniqueFd> NewEventFd() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus("eventfd", errno);
  return fd;
}

void SignalEventFd(int fd) {
  // EAGAIN means that the counter is at its maximum: the descriptor is readable anyway.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(fd, &one, sizeof(one));
}

void DrainEventFd(int fd) {
  uint64_t count;
  [[maybe_unused]] const ssize_t n = read(fd, &count, sizeof(count));
}

absl::StatusOr<SocketAddress> ParseTcpAddress(const std::string& address) {
  const auto [host, port] = SplitHostPort(address).value_or(HostPort{});
  if (host.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\" is not of the form ip:port or [ipv6]:port"));
  }
  uint32_t port_number = 0;
  if (!absl::SimpleAtoi(port, &port_number) || port_number > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\": port must be a number from 0 to 65535"));
  }
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\": ", gai_strerror(error)));
  }
  SocketAddress result;
  memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.n_bytes = found->ai_addrlen;
  freeaddrinfo(found);
  return result;
}

std::string JoinHostPort(const std::string& host, int port) {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<SocketAddress> AbstractUnixAddress(const std::string& name) {
  SocketAddress result;
  auto* address = reinterpret_cast<sockaddr_un*>(&result.storage);
  if (name.empty() || name.size() + 1 > sizeof(address->sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "unix name of ", name.size(), " bytes, must be 1 to ", sizeof(address->sun_path) - 1));
  }
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path + 1, name.data(), name.size());
  result.n_bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return result;
}

absl::StatusOr<UniqueFd> ListenOn(const SocketAddress& address) {
  UniqueFd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("socket", errno);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.n_bytes) != 0) {
    return ErrnoStatus("bind", errno);
  }
  if (listen(fd.get(), 128) != 0) return ErrnoStatus("listen", errno);
  return fd;
}

absl::StatusOr<int> LocalPort(int fd) {
  sockaddr_storage storage = {};
  socklen_t n_bytes = sizeof(storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &n_bytes) != 0) {
    return ErrnoStatus("getsockname", errno);
  }
  const bool is_ipv6 = storage.ss_family == AF_INET6;
  return is_ipv6 ? ntohs(reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port)
                 : ntohs(reinterpret_cast<sockaddr_in*>(&storage)->sin_port);
}

absl::StatusOr<UniqueFd> ConnectTo(const SocketAddress& address, SteadyTime deadline,
                                   int abort_fd) {
  UniqueFd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("socket", errno);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.n_bytes) ==
      0) {
    return fd;
  }
  // A unix socket is connected at once or not at all; only TCP goes on in the background.
  if (errno == EAGAIN) {
    return absl::ResourceExhaustedError("connect: the other side has too many connections pending");
  }
  if (errno != EINPROGRESS) return ErrnoStatus("connect", errno);
  RETURN_IF_ERROR(Annotate(WaitFor(fd.get(), POLLOUT, deadline, abort_fd), "connect"));
  // The socket is writable also if the connection was refused: SO_ERROR holds the outcome.
  int error = 0;
  socklen_t n_bytes = sizeof(error);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &n_bytes) != 0) error = errno;
  if (error != 0) return ErrnoStatus("connect", error);
  return fd;
}

absl::Status TuneTcp(int fd) {
  RETURN_IF_ERROR(SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
  RETURN_IF_ERROR(SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"));
  RETURN_IF_ERROR(SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1, "TCP_KEEPIDLE"));
  RETURN_IF_ERROR(SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1, "TCP_KEEPINTVL"));
  return SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 3, "TCP_KEEPCNT");
}

absl::Status SendSmall(int fd, absl::Span<const uint8_t> bytes, absl::Span<const int> fds) {
  CHECK_LE(fds.size(), size_t{kMaxFdsPerMessage});
  iovec part = {const_cast<uint8_t*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsPerMessage * sizeof(int))] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  const ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0) return ErrnoStatus("send", errno);
  if (static_cast<size_t>(n) != bytes.size()) {
    return absl::UnavailableError(
        absl::StrCat("send: socket took ", n, " of ", bytes.size(), " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RecvSome(int fd, absl::Span<uint8_t> out, std::vector<UniqueFd>* fds) {
  iovec part = {out.data(), out.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsPerMessage * sizeof(int))] = {};
  // Without room for control data the kernel itself closes descriptors that were sent along.
  if (fds != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  const ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return 0;
    return ErrnoStatus("recv", errno);
  }
  for (cmsghdr* header = fds == nullptr ? nullptr : CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t n_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n_fds; ++i) {
      int received;
      memcpy(&received, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds->emplace_back(received);
    }
  }
  // The descriptors above are in `fds` already, so that they are closed also if this is the end.
  if (n == 0) return absl::UnavailableError("connection closed by the other side");
  return n;
}

absl::Status RecvAll(int fd, absl::Span<uint8_t> out, std::vector<UniqueFd>* fds,
                     SteadyTime deadline, int abort_fd) {
  size_t done = 0;
  while (done < out.size()) {
    RETURN_IF_ERROR(WaitFor(fd, POLLIN, deadline, abort_fd));
    ASSIGN_OR_RETURN(const int64_t n, RecvSome(fd, out.subspan(done), fds));
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

int PollTimeoutMs(SteadyTime deadline) {
  if (deadline == SteadyTime::InfiniteFuture()) return -1;
  const absl::Duration left = deadline - SteadyNow();
  if (left <= absl::ZeroDuration()) return 0;
  // Rounded up: a poll() that ended a fraction of a millisecond early would be called again with 0.
  const int64_t ms = absl::ToInt64Milliseconds(left) + 1;
  return static_cast<int>(std::min<int64_t>(ms, INT_MAX));
}

}  // namespace bora
