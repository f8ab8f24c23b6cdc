// The work of one Listener::Connect call: dials the peers of lower rank, collects the connections
// of the peers of higher rank from the acceptor, and makes the Mesh.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "worker/comm/abort_signal.h"
#include "worker/comm/link/link.h"
#include "worker/comm/mesh.h"
#include "worker/comm/rendezvous.h"

namespace bora {

// Owned by the thread that calls Connect; rendezvous() and abort_signal() are shared with others.
class MeshBuilder {
 public:
  // Checks `options` and makes the event descriptors. INVALID_ARGUMENT names the bad option;
  // UNAVAILABLE if the process is out of descriptors.
  static absl::StatusOr<std::unique_ptr<MeshBuilder>> Create(const MeshOptions& options);

  // The acceptor delivers connections of peers here while Build runs.
  const std::shared_ptr<Rendezvous>& rendezvous() const { return rendezvous_; }
  // Raising it ends Build, and later aborts the Mesh that Build made.
  const std::shared_ptr<AbortSignal>& abort_signal() const { return abort_signal_; }

  // Blocks until all links are up, then returns the Mesh. DEADLINE_EXCEEDED names the missing peers
  // if MeshOptions::deadline passes first; ABORTED if abort_signal() is raised. To be called once.
  absl::StatusOr<std::unique_ptr<Mesh>> Build();

 private:
  // A peer, linked or not yet. next_attempt and backoff are used for peers that are dialed.
  struct Peer {
    RankAddress address;
    bool use_shared_memory = false;  // allowed, and possible as far as the endpoints tell
    bool is_dialed = false;          // by this rank; otherwise the peer dials
    std::unique_ptr<Link> link;      // null: not linked yet
    SteadyTime next_attempt = SteadyTime::InfinitePast();
    absl::Duration backoff;  // between the next failed attempt and the one after it
    std::string last_error = "it has not connected";
  };

  MeshBuilder(const MeshOptions& options, std::vector<Peer> peers, UniqueFd doorbell)
      : options_(options), peers_(std::move(peers)), doorbell_(std::move(doorbell)) {}

  // The peers in the order of options.peers. INVALID_ARGUMENT if a peer's TCP address is malformed.
  static absl::StatusOr<std::vector<Peer>> PeersOf(const MeshOptions& options);
  // Makes one attempt to link with a peer; on failure sets when to try again.
  void Dial(Peer* peer);
  // Takes the links that the acceptor has delivered.
  void CollectArrived();
  std::unique_ptr<Link> NewLink(const Peer& peer, EstablishedLink established) const;
  // DEADLINE_EXCEEDED naming the peers without a link and their last errors.
  absl::Status MissingPeers() const;

  const MeshOptions options_;  // with spin_us resolved
  std::vector<Peer> peers_;
  UniqueFd doorbell_;  // becomes the Mesh's
  std::shared_ptr<Rendezvous> rendezvous_;
  std::shared_ptr<AbortSignal> abort_signal_;
};

}  // namespace bora
