#include "worker/comm/dialer.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/comm/handshake.h"
#include "worker/comm/link/shared_ring.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

absl::StatusOr<UniqueFd> ConnectUnix(const DialOptions& options) {
  ASSIGN_OR_RETURN(const SocketAddress address,
                   AbstractUnixAddress(options.peer.endpoint.unix_name));
  return ConnectTo(address, options.deadline, options.abort_fd);
}

absl::StatusOr<UniqueFd> ConnectTcp(const DialOptions& options) {
  ASSIGN_OR_RETURN(const SocketAddress address, ParseTcpAddress(options.peer.endpoint.tcp_address));
  ASSIGN_OR_RETURN(UniqueFd socket, ConnectTo(address, options.deadline, options.abort_fd));
  RETURN_IF_ERROR(TuneTcp(socket.get()));
  return socket;
}

// Exchanges the four messages of handshake.h over link->socket. For shared memory it also fills in
// link->mapping and link->peer_doorbell.
absl::Status ShakeHands(const DialOptions& options, EstablishedLink* link) {
  const int fd = link->socket.get();
  HelloMessage hello;
  hello.link_kind = static_cast<uint32_t>(link->kind);
  hello.epoch = options.epoch;
  hello.from_rank = options.my_rank;
  hello.to_rank = options.peer.rank;
  hello.ring_bytes = options.ring_bytes;
  hello.nonce = RandomNonce();
  RETURN_IF_ERROR(SendSmall(fd, AsBytes(hello)));

  ChallengeMessage challenge;
  RETURN_IF_ERROR(
      RecvAll(fd, AsMutableBytes(challenge), nullptr, options.deadline, options.abort_fd));
  const Mac expected =
      HandshakeProof(options.secret, HandshakeRole::kAcceptor, hello, challenge.nonce);
  if (!SameMac(expected, challenge.proof)) {
    return absl::UnauthenticatedError(
        absl::StrCat("wrong proof of the secret of epoch ", options.epoch));
  }

  // The peer has proved itself, so that memory and doorbell can be given to it with the proof.
  const ProofMessage proof = {
      HandshakeProof(options.secret, HandshakeRole::kConnector, hello, challenge.nonce)};
  std::vector<UniqueFd> received;
  if (link->kind == LinkKind::kSharedMemory) {
    ASSIGN_OR_RETURN(const UniqueFd memory, SharedMapping::CreateMemory(options.ring_bytes));
    ASSIGN_OR_RETURN(link->mapping, SharedMapping::Map(memory.get(), options.ring_bytes));
    RETURN_IF_ERROR(SendSmall(fd, AsBytes(proof), {memory.get(), options.doorbell_fd}));
  } else {
    RETURN_IF_ERROR(SendSmall(fd, AsBytes(proof)));
  }
  // Not kReadyMagic, which must come from the peer.
  ReadyMessage ready = {0};
  RETURN_IF_ERROR(
      RecvAll(fd, AsMutableBytes(ready), &received, options.deadline, options.abort_fd));
  const size_t n_expected = link->kind == LinkKind::kSharedMemory ? 1 : 0;
  if (ready.magic != kReadyMagic || received.size() != n_expected) {
    return absl::UnavailableError("unexpected answer at the end of the handshake");
  }
  if (n_expected == 1) link->peer_doorbell = std::move(received[0]);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EstablishedLink> DialPeer(const DialOptions& options) {
  EstablishedLink link;
  link.peer = options.peer.rank;
  link.kind = LinkKind::kTcp;
  if (options.use_shared_memory) {
    absl::StatusOr<UniqueFd> socket = ConnectUnix(options);
    // The peer is there but busy: a later attempt gets shared memory, which TCP now would forgo.
    if (absl::IsResourceExhausted(socket.status())) return socket.status();
    if (socket.ok()) {
      link.kind = LinkKind::kSharedMemory;
      link.socket = *std::move(socket);
    }
  }
  if (link.kind == LinkKind::kTcp) {
    ASSIGN_OR_RETURN(link.socket, ConnectTcp(options));
  }
  RETURN_IF_ERROR(Annotate(ShakeHands(options, &link), "handshake"));
  return link;
}

}  // namespace bora
