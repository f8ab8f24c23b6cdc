// Thin wrappers over the sockets and event descriptors that the host transport uses. All
// descriptors are non-blocking and close-on-exec.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/host/unique_fd.h"

namespace bora {

// "what: strerror(error_number)", UNAVAILABLE.
absl::Status ErrnoStatus(const std::string& what, int error_number);

absl::StatusOr<UniqueFd> NewEventFd();
// Makes the descriptor readable.
void SignalEventFd(int fd);
// Makes it unreadable again.
void DrainEventFd(int fd);

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t n_bytes = 0;
};

// "10.0.0.5:40123" or "[fd00::5]:40123"; numeric only, no name lookup.
absl::StatusOr<SocketAddress> ParseTcpAddress(const std::string& address);
// Joins a numeric address and a port, with brackets for IPv6.
std::string JoinHostPort(const std::string& host, int port);
// Abstract unix address; `name` comes without the leading NUL.
absl::StatusOr<SocketAddress> AbstractUnixAddress(const std::string& name);

// A listening socket.
absl::StatusOr<UniqueFd> ListenOn(const SocketAddress& address);
// The port that a TCP socket is bound to.
absl::StatusOr<int> LocalPort(int fd);
// Connects; gives up at `deadline` or, with ABORTED, when `abort_fd` becomes readable.
// RESOURCE_EXHAUSTED: the backlog of a unix socket is full, try again.
absl::StatusOr<UniqueFd> ConnectTo(const SocketAddress& address, SteadyTime deadline, int abort_fd);

// TCP_NODELAY, and keepalive so that the kernel finds an idle link that was cut silently in about
// 4 s: probes start after 1 s and three unanswered ones, a second apart, end the connection.
absl::Status TuneTcp(int fd);

// Sends all bytes, and with them up to 2 descriptors on a unix socket, or fails: for messages small
// enough for the buffer of a fresh socket.
absl::Status SendSmall(int fd, absl::Span<const uint8_t> bytes, absl::Span<const int> fds = {});

// Receives at most out.size() bytes; 0 means nothing there now. Descriptors that come along are
// appended to `fds`, or closed when `fds` is null. End of stream is UNAVAILABLE.
absl::StatusOr<int64_t> RecvSome(int fd, absl::Span<uint8_t> out, std::vector<UniqueFd>* fds);

// Receives exactly out.size() bytes; gives up at `deadline` or when `abort_fd` becomes readable.
absl::Status RecvAll(int fd, absl::Span<uint8_t> out, std::vector<UniqueFd>* fds,
                     SteadyTime deadline, int abort_fd);

// poll() timeout until `deadline`: milliseconds rounded up, at least 0, -1 for no deadline.
int PollTimeoutMs(SteadyTime deadline);

}  // namespace bora
