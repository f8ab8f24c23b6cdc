#include "worker/comm/acceptor.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

// Descriptors that come with the proof of a link over shared memory: the memory and a doorbell.
constexpr size_t kProofDescriptors = 2;
// At most one refusal per interval is logged, so that a flood does not fill the disk; the next log
// line says how many refusals were left out.
constexpr absl::Duration kLogInterval = absl::Milliseconds(100);
// Pause of accepting when the process is out of descriptors: the listener stays readable then, so
// that poll() would return at once, again and again.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(50);

// "10.0.0.5 port 40123"; a peer on a unix socket has no address.
std::string NameOf(const sockaddr_storage& address, socklen_t n_bytes, bool is_unix) {
  if (is_unix) return "unix socket";
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), n_bytes, host, sizeof(host), port,
                  sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown address";
  }
  return absl::StrCat(host, " port ", port);
}

}  // namespace

Acceptor::Acceptor(AcceptorOptions options)
    : options_(std::move(options)), thread_([this] { Run(); }) {}

Acceptor::~Acceptor() {
  SignalEventFd(options_.stop_event.get());
  thread_.join();
}

void Acceptor::Run() {
  std::vector<pollfd> requests;
  while (true) {
    SteadyTime now = SteadyNow();
    const bool may_accept = now >= accept_after_;
    requests.clear();
    requests.push_back({options_.stop_event.get(), POLLIN, 0});
    requests.push_back({may_accept ? options_.tcp_listener.get() : -1, POLLIN, 0});
    requests.push_back({may_accept ? options_.unix_listener.get() : -1, POLLIN, 0});
    SteadyTime wake = may_accept ? SteadyTime::InfiniteFuture() : accept_after_;
    for (const Pending& pending : pending_) {
      requests.push_back({pending.socket.get(), POLLIN, 0});
      wake = std::min(wake, pending.deadline);
    }
    if (poll(requests.data(), requests.size(), PollTimeoutMs(wake)) < 0) continue;
    if (requests[0].revents != 0) return;

    now = SteadyNow();
    // Connections first, in the order in which they were added to `requests`; only then are new
    // ones accepted, because that changes pending_.
    size_t i = 3;
    for (auto pending = pending_.begin(); pending != pending_.end(); ++i) {
      bool keep = requests[i].revents == 0 || Advance(&*pending);
      if (keep && now >= pending->deadline) {
        Refuse(*pending, absl::DeadlineExceededError("handshake took too long"));
        keep = false;
      }
      pending = keep ? std::next(pending) : pending_.erase(pending);
    }
    if (requests[1].revents != 0) AcceptAll(options_.tcp_listener.get(), false);
    if (requests[2].revents != 0) AcceptAll(options_.unix_listener.get(), true);
  }
}

void Acceptor::AcceptAll(int listener, bool is_unix) {
  // Bounded, so that connections that are already in handshake get their turn during a flood.
  for (size_t i = 0; i < kMaxPendingHandshakes; ++i) {
    sockaddr_storage address = {};
    socklen_t n_bytes = sizeof(address);
    UniqueFd socket(accept4(listener, reinterpret_cast<sockaddr*>(&address), &n_bytes,
                            SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) {
      // Other errors concern one connection, or say that no more are waiting.
      const bool is_exhausted =
          errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
      if (is_exhausted) accept_after_ = SteadyNow() + kAcceptPause;
      return;
    }
    if (pending_.size() >= kMaxPendingHandshakes) {
      Refuse(pending_.front(), absl::ResourceExhaustedError(absl::StrCat(
                                   "more than ", kMaxPendingHandshakes, " handshakes pending")));
      pending_.pop_front();
    }
    Pending& pending = pending_.emplace_back();
    pending.socket = std::move(socket);
    pending.is_unix = is_unix;
    pending.from = NameOf(address, n_bytes, is_unix);
    pending.deadline = SteadyNow() + options_.handshake_timeout;
  }
}

bool Acceptor::Advance(Pending* pending) {
  const absl::Span<uint8_t> message =
      pending->has_hello ? AsMutableBytes(pending->proof) : AsMutableBytes(pending->hello);
  // Descriptors are accepted only from a connection that was sent a Challenge.
  std::vector<UniqueFd>* fds = pending->has_hello ? &pending->fds : nullptr;
  const absl::StatusOr<int64_t> n =
      RecvSome(pending->socket.get(), message.subspan(pending->n_received), fds);
  absl::Status status = n.status();
  if (status.ok() && pending->fds.size() > kProofDescriptors) {
    // Nothing is proved yet, and each byte of the proof could bring more.
    status = absl::InvalidArgumentError(absl::StrCat("got ", pending->fds.size(),
                                                     " descriptors before the proof, expected ",
                                                     kProofDescriptors));
  }
  if (status.ok()) {
    pending->n_received += static_cast<size_t>(*n);
    if (pending->n_received < message.size()) return true;
    pending->n_received = 0;
    if (pending->has_hello) {
      status = AcceptProof(pending);
      if (status.ok()) return false;
    } else {
      status = AnswerHello(pending);
      pending->has_hello = true;
    }
  }
  if (!status.ok()) Refuse(*pending, status);
  return status.ok();
}

absl::Status Acceptor::AnswerHello(Pending* pending) {
  const HelloMessage& hello = pending->hello;
  RETURN_IF_ERROR(CheckHello(hello));
  const bool wants_shared_memory =
      hello.link_kind == static_cast<uint32_t>(LinkKind::kSharedMemory);
  // Only a unix socket can carry the descriptors that a shared memory link needs.
  if (wants_shared_memory != pending->is_unix) {
    return absl::InvalidArgumentError("link kind does not match the socket");
  }
  pending->rendezvous = options_.find_rendezvous(hello.epoch, hello.to_rank);
  if (pending->rendezvous == nullptr) {
    return absl::NotFoundError(absl::StrCat("rank ", hello.to_rank, " of epoch ", hello.epoch,
                                            " is not being connected here"));
  }
  RETURN_IF_ERROR(pending->rendezvous->CheckHello(hello));
  pending->nonce = RandomNonce();
  const ChallengeMessage challenge = {
      pending->nonce, HandshakeProof(pending->rendezvous->terms().secret, HandshakeRole::kAcceptor,
                                     hello, pending->nonce)};
  return SendSmall(pending->socket.get(), AsBytes(challenge));
}

absl::Status Acceptor::AcceptProof(Pending* pending) {
  const HelloMessage& hello = pending->hello;
  const RendezvousTerms& terms = pending->rendezvous->terms();
  // Nothing of the proof's message is used, descriptors included, unless the proof is right.
  const Mac expected =
      HandshakeProof(terms.secret, HandshakeRole::kConnector, hello, pending->nonce);
  if (!SameMac(expected, pending->proof.proof)) {
    return absl::UnauthenticatedError(
        absl::StrCat("wrong proof of the secret of epoch ", hello.epoch));
  }
  EstablishedLink link;
  link.peer = hello.from_rank;
  link.kind = static_cast<LinkKind>(hello.link_kind);
  if (link.kind == LinkKind::kSharedMemory) {
    if (pending->fds.size() != kProofDescriptors) {
      return absl::InvalidArgumentError(absl::StrCat("got ", pending->fds.size(),
                                                     " descriptors with the proof, expected ",
                                                     kProofDescriptors));
    }
    ASSIGN_OR_RETURN(link.mapping, SharedMapping::Map(pending->fds[0].get(), terms.ring_bytes));
    link.peer_doorbell = std::move(pending->fds[1]);
    pending->fds.clear();
  } else {
    RETURN_IF_ERROR(TuneTcp(pending->socket.get()));
  }
  link.socket = std::move(pending->socket);
  return pending->rendezvous->Deliver(std::move(link));
}

void Acceptor::Refuse(const Pending& pending, const absl::Status& reason) {
  n_refused_.fetch_add(1, std::memory_order_relaxed);
  // NOT_FOUND is usual: a peer that dials before this rank connects tries again a moment later.
  const LogLevel level =
      reason.code() == absl::StatusCode::kNotFound ? LogLevel::kDebug : LogLevel::kWarning;
  const SteadyTime now = SteadyNow();
  if (now < next_log_) {
    ++n_unlogged_;
    return;
  }
  next_log_ = now + kLogInterval;
  Log(level, "refused a link",
      {{"from", pending.from},
       {"reason", std::string(reason.message())},
       {"not_logged", std::exchange(n_unlogged_, 0)}});
}

}  // namespace bora
