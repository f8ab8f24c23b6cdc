// Where the accepting thread leaves the links for the Connect call that waits for them: the one
// thing that these two threads share.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/host/unique_fd.h"
#include "worker/comm/handshake.h"
#include "worker/comm/link/link.h"

namespace bora {

// The connections that a Connect call accepts. The fields before `dialers` are those of
// MeshOptions. Immutable after construction.
struct RendezvousTerms {
  int64_t epoch = 0;
  int my_rank = 0;
  std::string secret;
  int64_t ring_bytes = 0;
  struct Dialer {
    int rank = -1;
    LinkKind strongest_kind = LinkKind::kTcp;  // kTcp: refuses shared memory
  };
  std::vector<Dialer> dialers;  // the peers that dial this rank: the peers of higher rank
  int doorbell_fd = -1;  // of the future Mesh, given to shared memory peers; valid until Close()
};

// Thread-safe.
class Rendezvous {
 public:
  // `arrival` comes from NewEventFd().
  Rendezvous(RendezvousTerms terms, UniqueFd arrival)
      : terms_(std::move(terms)), arrival_(std::move(arrival)) {}

  const RendezvousTerms& terms() const { return terms_; }
  // A descriptor to poll for POLLIN: readable if TakeArrived has links to take.
  int arrival_fd() const { return arrival_.get(); }

  // INVALID_ARGUMENT names the field of a Hello that does not fit these terms: its rank, ring_bytes
  // or link kind. The secret is proved later.
  // REQUIRES: the Hello's epoch and to_rank are those of the terms.
  absl::Status CheckHello(const HelloMessage& hello) const;

  // Answers the peer with Ready and keeps the link for TakeArrived. A later link of the same peer
  // replaces an earlier one: the peer has given that one up. UNAVAILABLE after Close(), or if Ready
  // cannot be sent. Called by the accepting thread.
  absl::Status Deliver(EstablishedLink link);

  // Takes the links that were delivered since the last call. Called by the connecting thread.
  std::vector<EstablishedLink> TakeArrived();
  // Ends deliveries and closes the links that were delivered but not taken.
  void Close();

 private:
  const RendezvousTerms terms_;
  const UniqueFd arrival_;
  std::mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<EstablishedLink> arrived_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
