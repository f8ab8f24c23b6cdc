// How both ends of a worker stream prove that they have the same credential, before either says
// anything else: challenge, response, confirmation, as worker_service.proto describes them.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/auth/hmac.h"
#include "bora/worker/v1alpha1/worker_service.pb.h"

namespace bora {

// The header of the call: a nonce and a proof of the credential over it. It gets a worker no
// further than that its messages are read; who does not have it is refused before anything is.
inline constexpr char kGateHeader[] = "bora-gate-bin";

// The coordinator's end of one stream. Owned by one thread at a time.
class CoordinatorAuth {
 public:
  // An empty credential: none.
  explicit CoordinatorAuth(std::string credential);

  // What the call's header says; empty: it has none. UNAUTHENTICATED as Check.
  absl::Status CheckGate(absl::string_view header) const;
  worker::v1alpha1::AuthChallenge Challenge() const;
  // UNAUTHENTICATED says whether the worker's credential is wrong or absent.
  absl::StatusOr<worker::v1alpha1::AuthConfirmation> Check(
      const worker::v1alpha1::AuthResponse& response) const;

 private:
  const std::string credential_;
  const Nonce nonce_;
};

// The worker's end of one stream. Owned by one thread.
class WorkerAuth {
 public:
  // An empty credential: none.
  explicit WorkerAuth(std::string credential);

  // The call's header; empty without a credential.
  std::string Gate() const;
  // Proves nothing to a coordinator that has no credential where this worker has one, or the other
  // way round: it will end the stream with the reason. INVALID_ARGUMENT: no challenge.
  absl::StatusOr<worker::v1alpha1::AuthResponse> Respond(
      const worker::v1alpha1::AuthChallenge& challenge);
  // UNAUTHENTICATED if whoever listens in the coordinator's place does not have the credential.
  absl::Status Check(const worker::v1alpha1::AuthConfirmation& confirmation) const;

 private:
  const std::string credential_;
  const Nonce nonce_;
  std::string coordinator_nonce_;
};

}  // namespace bora
