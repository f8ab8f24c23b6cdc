// One Connect call: dials the peers of lower rank, collects those of higher rank, makes the Mesh.
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

// Used by the thread that calls Connect.
class MeshBuilder {
 public:
  // Checks the options: INVALID_ARGUMENT names the bad one.
  static absl::StatusOr<std::unique_ptr<MeshBuilder>> Create(const MeshOptions& options);

  // To be offered to the acceptor while Build runs.
  const std::shared_ptr<Rendezvous>& rendezvous() const { return rendezvous_; }
  // Ends Build, and later the Mesh.
  const std::shared_ptr<AbortSignal>& abort_signal() const { return abort_signal_; }

  // Blocks until all links are up, the deadline has passed or abort_signal is raised.
  absl::StatusOr<std::unique_ptr<Mesh>> Build();

 private:
  struct Peer {
    RankAddress address;
    bool use_shared_memory = false;
    bool is_dialed = false;  // by this rank
    std::unique_ptr<Link> link;
    SteadyTime next_attempt = SteadyTime::InfinitePast();
    absl::Duration backoff;
    std::string last_error = "it has not connected";
  };

  MeshBuilder(const MeshOptions& options, std::vector<Peer> peers, UniqueFd doorbell)
      : options_(options), peers_(std::move(peers)), doorbell_(std::move(doorbell)) {}

  static absl::StatusOr<std::vector<Peer>> PeersOf(const MeshOptions& options);
  void Dial(Peer* peer);
  void CollectArrived();
  std::unique_ptr<Link> NewLink(const Peer& peer, EstablishedLink established) const;
  absl::Status MissingPeers() const;

  const MeshOptions options_;
  std::vector<Peer> peers_;
  UniqueFd doorbell_;
  std::shared_ptr<Rendezvous> rendezvous_;
  std::shared_ptr<AbortSignal> abort_signal_;
};

}  // namespace bora
