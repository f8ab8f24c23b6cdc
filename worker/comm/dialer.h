// The connecting side of the handshake. MeshBuilder dials the peers of lower rank with it, one
// attempt at a time.
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
  std::string secret;  // of the epoch
  int my_rank = 0;
  RankAddress peer;
  bool use_shared_memory = false;  // tries the peer's unix socket first
  int64_t ring_bytes = 0;          // MeshOptions::ring_bytes; the peer refuses another value
  int doorbell_fd = -1;            // event descriptor that the peer may ring to wake this rank
  SteadyTime deadline;             // of this attempt
  int abort_fd = -1;               // ends the attempt when it becomes readable
};

// Makes one attempt to connect with a peer and to authenticate both sides; blocks until it has
// succeeded or failed. Uses TCP if shared memory is wanted but the peer's unix socket cannot be
// reached from here.
// UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED: a later attempt may succeed, for instance
// because the peer is not connecting yet. UNAUTHENTICATED: the process that answered does not know
// the secret. ABORTED: `abort_fd` is readable. INVALID_ARGUMENT: the peer's address is malformed.
absl::StatusOr<EstablishedLink> DialPeer(const DialOptions& options);

}  // namespace bora
