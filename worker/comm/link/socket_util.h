// Thin wrappers over the sockets and event descriptors that the host transport uses. All
// descriptors made here are non-blocking and close-on-exec. All functions are thread-safe; unless
// said otherwise, an error of the kernel is UNAVAILABLE with the text of errno.
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

// UNAVAILABLE with the message "<what>: <text of error_number>".
absl::Status ErrnoStatus(const std::string& what, int error_number);

// An event descriptor with a counter of 0: one thread or process waits for it with poll(), another
// wakes it with SignalEventFd.
absl::StatusOr<UniqueFd> NewEventFd();
// Makes the event descriptor readable, until DrainEventFd.
void SignalEventFd(int fd);
// Makes the event descriptor unreadable, however often it was signalled; no error if it was not.
void DrainEventFd(int fd);

// An address of any family as the socket calls take it.
struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t n_bytes = 0;  // of `storage` in use
};

// Parses "10.0.0.5:40123" or "[fd00::5]:40123"; numeric only, no name lookup. INVALID_ARGUMENT
// quotes the address.
absl::StatusOr<SocketAddress> ParseTcpAddress(const std::string& address);
// "host:port" or "[host]:port": brackets if `host` contains a colon, as IPv6 addresses do.
std::string JoinHostPort(const std::string& host, int port);
// The abstract unix address `name`, which is given without the leading NUL. Such a name disappears
// with its socket. INVALID_ARGUMENT if the name is empty or longer than 107 bytes.
absl::StatusOr<SocketAddress> AbstractUnixAddress(const std::string& name);

// Binds a stream socket to `address` (TCP port 0: the kernel chooses) and listens.
absl::StatusOr<UniqueFd> ListenOn(const SocketAddress& address);
// The port that the TCP socket `fd` is bound to.
absl::StatusOr<int> LocalPort(int fd);
// Connects a stream socket to `address`; blocks until it is connected. DEADLINE_EXCEEDED at
// `deadline`; ABORTED when `abort_fd` becomes readable (-1: never); RESOURCE_EXHAUSTED if the
// backlog of a unix socket is full and the caller should try again; UNAVAILABLE otherwise.
absl::StatusOr<UniqueFd> ConnectTo(const SocketAddress& address, SteadyTime deadline, int abort_fd);

// Sets TCP_NODELAY, because messages are small and waited for, and keepalive, so that the kernel
// finds an idle link that was cut silently in about 4 s: probes start after 1 s and three
// unanswered ones, a second apart, end the connection.
absl::Status TuneTcp(int fd);

// Sends all `bytes`, and with them up to 2 descriptors `fds` on a unix socket. Does not wait:
// UNAVAILABLE if the socket's buffer does not take all bytes at once. For messages small enough for
// the buffer of a fresh socket.
absl::Status SendSmall(int fd, absl::Span<const uint8_t> bytes, absl::Span<const int> fds = {});

// Receives at most out.size() bytes without waiting and returns their number, 0 if none have
// arrived. Descriptors that come along are appended to `fds`, or closed if `fds` is null. End of
// stream is UNAVAILABLE.
// REQUIRES: `out` is not empty.
absl::StatusOr<int64_t> RecvSome(int fd, absl::Span<uint8_t> out, std::vector<UniqueFd>* fds);

// Blocks until exactly out.size() bytes are received; `fds` as in RecvSome. DEADLINE_EXCEEDED at
// `deadline`, ABORTED when `abort_fd` becomes readable (-1: never), UNAVAILABLE at end of stream.
absl::Status RecvAll(int fd, absl::Span<uint8_t> out, std::vector<UniqueFd>* fds,
                     SteadyTime deadline, int abort_fd);

// The timeout to give to poll() so that it returns at or just after `deadline`: milliseconds
// rounded up, at least 0; -1, which is no timeout, for InfiniteFuture().
int PollTimeoutMs(SteadyTime deadline);

}  // namespace bora
