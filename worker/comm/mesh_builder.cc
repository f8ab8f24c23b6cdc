#include "worker/comm/mesh_builder.h"

#include <poll.h>

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/host/host_cpus.h"
#include "base/status_macros.h"
#include "worker/comm/dialer.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

// A round trip over loopback or a local network takes 10 to 50 us, and a peer rarely is later than
// that by much if the work is even; sleeping and waking costs about as much again.
constexpr int kDefaultSpinUs = 50;
// A peer that is alive answers in a millisecond. Peers are dialed one after the other, so that an
// attempt without an answer must not hold up the others for long.
constexpr absl::Duration kAttemptTimeout = absl::Seconds(2);
// Pause after a failed attempt, doubled after each. Short, because a peer that is a moment late
// holds up the whole epoch.
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(2);
constexpr absl::Duration kMaxBackoff = absl::Milliseconds(50);

// The address of `rank`, or null if it is not among options.ranks.
const RankAddress* FindRank(const MeshOptions& options, int rank) {
  for (const RankAddress& address : options.ranks) {
    if (address.rank == rank) return &address;
  }
  return nullptr;
}

// INVALID_ARGUMENT names the option that breaks a rule of MeshOptions.
absl::Status CheckOptions(const MeshOptions& options) {
  const auto invalid = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("mesh options: ", parts...));
  };
  if (static_cast<int64_t>(options.secret.size()) < kMinSecretBytes) {
    return invalid("secret has ", options.secret.size(), " bytes, needs ", kMinSecretBytes);
  }
  if (options.ring_bytes < 4096 || options.ring_bytes > (int64_t{1} << 30) ||
      !std::has_single_bit(static_cast<uint64_t>(options.ring_bytes))) {
    return invalid("ring_bytes is ", options.ring_bytes,
                   ", must be a power of two from 4096 to 1073741824");
  }
  if (options.max_all_reduce_floats < 0) {
    return invalid("max_all_reduce_floats is ", options.max_all_reduce_floats, ", must be >= 0");
  }
  if (options.peers.size() > kMaxPeers) {
    return invalid(options.peers.size(), " peers, at most ", kMaxPeers, " are possible");
  }
  if (options.link_timeout < absl::Seconds(1)) {
    return invalid("link_timeout is ", absl::FormatDuration(options.link_timeout),
                   ", must be at least 1s");
  }
  if (FindRank(options, options.my_rank) == nullptr) {
    return invalid("my_rank ", options.my_rank, " is not among the ranks");
  }
  for (size_t i = 0; i < options.peers.size(); ++i) {
    const int peer = options.peers[i];
    if (peer == options.my_rank) return invalid("rank ", peer, " names itself as a peer");
    if (FindRank(options, peer) == nullptr)
      return invalid("peer ", peer, " is not among the ranks");
    if (std::count(options.peers.begin(), options.peers.end(), peer) != 1) {
      return invalid("peer ", peer, " is named twice");
    }
  }
  return absl::OkStatus();
}

// The first part of a host id, the boot id: ranks in different network namespaces of one machine
// have different host ids but share its CPUs.
absl::string_view MachineOf(const RankAddress& address) {
  const absl::string_view host_id = address.endpoint.host_id;
  return host_id.substr(0, host_id.find('/'));
}

// The microseconds to spin that a negative MeshOptions::spin_us stands for.
int ChooseSpinUs(const MeshOptions& options) {
  if (options.spin_us >= 0) return options.spin_us;
  const absl::string_view mine = MachineOf(*FindRank(options, options.my_rank));
  const auto n_ranks =
      std::count_if(options.ranks.begin(), options.ranks.end(),
                    [&](const RankAddress& address) { return MachineOf(address) == mine; });
  return n_ranks > UsableCpuCount() ? 0 : kDefaultSpinUs;
}

}  // namespace

absl::StatusOr<std::vector<MeshBuilder::Peer>> MeshBuilder::PeersOf(const MeshOptions& options) {
  const Endpoint& mine = FindRank(options, options.my_rank)->endpoint;
  std::vector<Peer> peers;
  for (const int rank : options.peers) {
    Peer peer;
    peer.address = *FindRank(options, rank);
    const Endpoint& theirs = peer.address.endpoint;
    peer.use_shared_memory = options.allow_shared_memory && mine.host_id == theirs.host_id &&
                             !mine.host_id.empty() && !theirs.unix_name.empty();
    peer.is_dialed = rank < options.my_rank;
    peer.backoff = kFirstBackoff;
    if (peer.is_dialed) {
      RETURN_IF_ERROR(Annotate(ParseTcpAddress(theirs.tcp_address).status(),
                               absl::StrCat("mesh options: rank ", rank)));
    }
    peers.push_back(std::move(peer));
  }
  return peers;
}

absl::StatusOr<std::unique_ptr<MeshBuilder>> MeshBuilder::Create(const MeshOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(std::vector<Peer> peers, PeersOf(options));
  ASSIGN_OR_RETURN(UniqueFd doorbell, NewEventFd());
  ASSIGN_OR_RETURN(UniqueFd arrival, NewEventFd());
  ASSIGN_OR_RETURN(UniqueFd abort_event, NewEventFd());
  RendezvousTerms terms = {options.epoch, options.my_rank, options.secret, options.ring_bytes};
  terms.doorbell_fd = doorbell.get();
  for (const Peer& peer : peers) {
    if (peer.is_dialed) continue;
    const LinkKind kind = peer.use_shared_memory ? LinkKind::kSharedMemory : LinkKind::kTcp;
    terms.dialers.push_back({peer.address.rank, kind});
  }
  MeshOptions resolved = options;
  resolved.spin_us = ChooseSpinUs(options);
  std::unique_ptr<MeshBuilder> builder(
      new MeshBuilder(resolved, std::move(peers), std::move(doorbell)));
  builder->rendezvous_ = std::make_shared<Rendezvous>(std::move(terms), std::move(arrival));
  builder->abort_signal_ = std::make_shared<AbortSignal>(std::move(abort_event));
  return builder;
}

absl::StatusOr<std::unique_ptr<Mesh>> MeshBuilder::Build() {
  while (true) {
    if (abort_signal_->raised()) return abort_signal_->status();
    CollectArrived();
    SteadyTime wake = options_.deadline;
    bool is_complete = true;
    for (Peer& peer : peers_) {
      if (peer.link == nullptr && peer.is_dialed && SteadyNow() >= peer.next_attempt) Dial(&peer);
      if (peer.link != nullptr) continue;
      is_complete = false;
      if (peer.is_dialed) wake = std::min(wake, peer.next_attempt);
    }
    if (is_complete) break;
    if (abort_signal_->raised()) continue;
    if (SteadyNow() >= options_.deadline) return MissingPeers();
    pollfd requests[2] = {{abort_signal_->fd(), POLLIN, 0}, {rendezvous_->arrival_fd(), POLLIN, 0}};
    poll(requests, 2, PollTimeoutMs(wake));
  }
  rendezvous_->Close();
  std::vector<std::unique_ptr<Link>> links;
  for (Peer& peer : peers_) links.push_back(std::move(peer.link));
  return std::unique_ptr<Mesh>(
      new Mesh(options_, std::move(links), std::move(doorbell_), abort_signal_));
}

void MeshBuilder::Dial(Peer* peer) {
  DialOptions dial;
  dial.epoch = options_.epoch;
  dial.secret = options_.secret;
  dial.my_rank = options_.my_rank;
  dial.peer = peer->address;
  dial.use_shared_memory = peer->use_shared_memory;
  dial.ring_bytes = options_.ring_bytes;
  dial.doorbell_fd = doorbell_.get();
  dial.deadline = std::min(options_.deadline, SteadyNow() + kAttemptTimeout);
  dial.abort_fd = abort_signal_->fd();
  absl::StatusOr<EstablishedLink> established = DialPeer(dial);
  if (established.ok()) {
    peer->link = NewLink(*peer, *std::move(established));
    return;
  }
  peer->last_error = std::string(established.status().message());
  peer->next_attempt = SteadyNow() + peer->backoff;
  peer->backoff = std::min(2 * peer->backoff, kMaxBackoff);
}

void MeshBuilder::CollectArrived() {
  for (EstablishedLink& established : rendezvous_->TakeArrived()) {
    for (Peer& peer : peers_) {
      if (peer.address.rank != established.peer) continue;
      peer.link = NewLink(peer, std::move(established));
      break;
    }
  }
}

std::unique_ptr<Link> MeshBuilder::NewLink(const Peer& peer, EstablishedLink established) const {
  std::string name =
      absl::StrCat("rank ", peer.address.rank, " (", peer.address.endpoint.tcp_address, ")");
  if (established.kind == LinkKind::kSharedMemory) {
    return NewShmLink(options_.my_rank, std::move(name), std::move(established));
  }
  return NewTcpLink(std::move(name), std::move(established), options_.ring_bytes,
                    options_.link_timeout);
}

absl::Status MeshBuilder::MissingPeers() const {
  std::vector<std::string> missing;
  for (const Peer& peer : peers_) {
    if (peer.link != nullptr) continue;
    missing.push_back(absl::StrCat("rank ", peer.address.rank, " (",
                                   peer.address.endpoint.tcp_address, "): ", peer.last_error));
  }
  return absl::DeadlineExceededError(absl::StrCat("rank ", options_.my_rank, " of epoch ",
                                                  options_.epoch, " is missing ",
                                                  absl::StrJoin(missing, "; ")));
}

}  // namespace bora
