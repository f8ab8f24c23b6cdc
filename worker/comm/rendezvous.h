// Where the accepting thread leaves the links that a Connect call is waiting for.
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

// Which connections a Connect call accepts. Immutable after construction.
struct RendezvousTerms {
  int64_t epoch = 0;
  int my_rank = 0;
  std::string secret;
  int64_t ring_bytes = 0;
  struct Dialer {
    int rank = -1;
    LinkKind strongest_kind = LinkKind::kTcp;  // kTcp: refuses shared memory
  };
  std::vector<Dialer> dialers;  // the peers of higher rank
  int doorbell_fd = -1;         // of the future Mesh; valid until Close()
};

// Thread-safe.
class Rendezvous {
 public:
  Rendezvous(RendezvousTerms terms, UniqueFd arrival)
      : terms_(std::move(terms)), arrival_(std::move(arrival)) {}

  const RendezvousTerms& terms() const { return terms_; }
  // Readable when a link has been delivered.
  int arrival_fd() const { return arrival_.get(); }

  // Whether a Hello fits these terms; the secret is proven later. The error says what does not.
  absl::Status CheckHello(const HelloMessage& hello) const;

  // Answers the peer with Ready and keeps the link; a later link of the same peer replaces an
  // earlier one, whose dialer has given up. UNAVAILABLE after Close().
  absl::Status Deliver(EstablishedLink link);

  // Takes what has been delivered.
  std::vector<EstablishedLink> TakeArrived();
  // Ends deliveries, and closes the links that nobody took.
  void Close();

 private:
  const RendezvousTerms terms_;
  const UniqueFd arrival_;
  std::mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<EstablishedLink> arrived_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
