// How the coordinator and a worker prove to each other that they have the same credential, before
// either says anything else on a worker stream: challenge (coordinator), response (worker),
// confirmation (coordinator), as worker_service.proto describes them. The credential, a shared
// secret, is never sent. A side without a credential accepts only a peer without one.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/auth/hmac.h"
#include "bora/worker/v1alpha1/worker_service.pb.h"

namespace bora {

// Name of the header of a worker's call. Its value is the gate: a nonce of the worker and a proof
// of the credential over that nonce. The coordinator refuses a call without a valid gate before it
// reads a message. The gate alone proves little, since a recorded one can be sent again: it only
// lets a worker's messages be read.
inline constexpr char kGateHeader[] = "bora-gate-bin";

// The coordinator's end of one stream: CheckGate, Challenge, then Check of the worker's answer.
// Owned by one thread at a time.
class CoordinatorAuth {
 public:
  // Chooses this stream's nonce. An empty `credential` means that the coordinator has none.
  explicit CoordinatorAuth(std::string credential);

  // Checks the value of the call's header kGateHeader; empty if the call has no such header.
  // UNAUTHENTICATED says whether the worker's credential is wrong, absent or not expected.
  absl::Status CheckGate(absl::string_view header) const;
  // Returns the first message to the worker.
  worker::v1alpha1::AuthChallenge Challenge() const;
  // Checks the worker's answer to Challenge() and returns the confirmation to send to it.
  // UNAUTHENTICATED says whether the worker's credential is wrong, absent or not expected.
  absl::StatusOr<worker::v1alpha1::AuthConfirmation> Check(
      const worker::v1alpha1::AuthResponse& response) const;

 private:
  const std::string credential_;
  const Nonce nonce_;  // of this stream, so that a recorded response is worth nothing in another
};

// The worker's end of one stream: Gate, Respond to the challenge, then Check of the confirmation.
// Owned by one thread.
class WorkerAuth {
 public:
  // Chooses this stream's nonce. An empty `credential` means that the worker has none.
  explicit WorkerAuth(std::string credential);

  // Returns the value for the call's header kGateHeader; empty if the worker has no credential.
  std::string Gate() const;
  // Returns the answer to the coordinator's challenge. It has a proof only if both sides have a
  // credential; if just one side has one, the coordinator ends the stream and says why.
  // INVALID_ARGUMENT if the challenge's nonce does not have 32 bytes.
  absl::StatusOr<worker::v1alpha1::AuthResponse> Respond(
      const worker::v1alpha1::AuthChallenge& challenge);
  // Checks the coordinator's confirmation; always OK if this worker has no credential.
  // UNAUTHENTICATED if the peer has not proved that it has the credential, so that it may not be
  // the coordinator. REQUIRES: Respond was called.
  absl::Status Check(const worker::v1alpha1::AuthConfirmation& confirmation) const;

 private:
  const std::string credential_;
  const Nonce nonce_;
  std::string coordinator_nonce_;  // of the challenge, set by Respond
};

}  // namespace bora
