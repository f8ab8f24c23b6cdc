// The connecting side of the handshake.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "worker/comm/link/link.h"
#include "worker/comm/mesh.h"

namespace bora {

struct DialOptions {
  int64_t epoch = 0;
  std::string secret;
  int my_rank = 0;
  RankAddress peer;
  bool use_shared_memory = false;
  int64_t ring_bytes = 0;
  int doorbell_fd = -1;  // of this rank
  SteadyTime deadline;   // of this attempt
  int abort_fd = -1;     // readable: give up
};

// One attempt. Takes TCP when shared memory is wanted but the peer's unix socket does not exist
// here. UNAVAILABLE or DEADLINE_EXCEEDED: may work later; UNAUTHENTICATED: who answers there does
// not know the secret.
absl::StatusOr<EstablishedLink> DialPeer(const DialOptions& options);

}  // namespace bora
