#include "model/protocol/worker_auth.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/bytes.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;

// Begins every authenticated text, so that a proof is valid for nothing else under this credential.
constexpr absl::string_view kContext = "bora worker stream v1";

std::string ToBytes(const Nonce& nonce) {
  return std::string(reinterpret_cast<const char*>(nonce.data()), nonce.size());
}

// Returns HMAC-SHA256(credential, kContext | role | coordinator_nonce | worker_nonce). `role` is
// 'G' for the gate, 'W' for the worker's proof and 'C' for the coordinator's: the same nonces give
// different proofs, so that a proof cannot be sent back to the side that made it.
std::string Proof(const std::string& credential, char role, absl::string_view coordinator_nonce,
                  absl::string_view worker_nonce) {
  const std::string text =
      absl::StrCat(kContext, std::string(1, role), coordinator_nonce, worker_nonce);
  return ToBytes(HmacSha256(credential, BytesOf(text)));
}

// Whether both are proofs and equal; the comparison takes the same time wherever they differ.
bool SameProof(const std::string& expected, const std::string& given) {
  Mac a, b;
  if (expected.size() != a.size() || given.size() != b.size()) return false;
  std::copy(expected.begin(), expected.end(), a.begin());
  std::copy(given.begin(), given.end(), b.begin());
  return SameMac(a, b);
}

absl::Status Unexpected() {
  return absl::UnauthenticatedError(
      "worker credential is not expected: the coordinator has none (--worker-credential-file)");
}

absl::Status Absent() {
  return absl::UnauthenticatedError(
      "worker credential is absent: the coordinator has one (the worker's --credential-file)");
}

absl::Status Wrong() { return absl::UnauthenticatedError("worker credential is wrong"); }

}  // namespace

CoordinatorAuth::CoordinatorAuth(std::string credential)
    : credential_(std::move(credential)), nonce_(RandomNonce()) {}

absl::Status CoordinatorAuth::CheckGate(absl::string_view header) const {
  if (credential_.empty()) return header.empty() ? absl::OkStatus() : Unexpected();
  if (header.empty()) return Absent();
  if (header.size() != nonce_.size() + sizeof(Mac)) return Wrong();
  const absl::string_view nonce = header.substr(0, nonce_.size());
  const std::string given(header.substr(nonce_.size()));
  return SameProof(Proof(credential_, 'G', "", nonce), given) ? absl::OkStatus() : Wrong();
}

pb::AuthChallenge CoordinatorAuth::Challenge() const {
  pb::AuthChallenge challenge;
  challenge.set_nonce(ToBytes(nonce_));
  challenge.set_has_credential(!credential_.empty());
  return challenge;
}

absl::StatusOr<pb::AuthConfirmation> CoordinatorAuth::Check(
    const pb::AuthResponse& response) const {
  if (response.has_credential() && credential_.empty()) return Unexpected();
  if (!response.has_credential() && !credential_.empty()) return Absent();
  pb::AuthConfirmation confirmation;
  if (credential_.empty()) return confirmation;
  const std::string nonce = ToBytes(nonce_);
  if (response.nonce().size() != nonce.size() ||
      !SameProof(Proof(credential_, 'W', nonce, response.nonce()), response.proof())) {
    return Wrong();
  }
  confirmation.set_proof(Proof(credential_, 'C', nonce, response.nonce()));
  return confirmation;
}

WorkerAuth::WorkerAuth(std::string credential)
    : credential_(std::move(credential)), nonce_(RandomNonce()) {}

std::string WorkerAuth::Gate() const {
  if (credential_.empty()) return "";
  const std::string nonce = ToBytes(nonce_);
  return nonce + Proof(credential_, 'G', "", nonce);
}

absl::StatusOr<pb::AuthResponse> WorkerAuth::Respond(const pb::AuthChallenge& challenge) {
  if (challenge.nonce().size() != nonce_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the coordinator's nonce has ", challenge.nonce().size(), " bytes, not ", nonce_.size()));
  }
  coordinator_nonce_ = challenge.nonce();
  pb::AuthResponse response;
  response.set_nonce(ToBytes(nonce_));
  response.set_has_credential(!credential_.empty());
  if (!credential_.empty() && challenge.has_credential()) {
    response.set_proof(Proof(credential_, 'W', coordinator_nonce_, response.nonce()));
  }
  return response;
}

absl::Status WorkerAuth::Check(const pb::AuthConfirmation& confirmation) const {
  if (credential_.empty()) return absl::OkStatus();
  if (SameProof(Proof(credential_, 'C', coordinator_nonce_, ToBytes(nonce_)),
                confirmation.proof())) {
    return absl::OkStatus();
  }
  return absl::UnauthenticatedError(
      "the coordinator's credential is wrong: it did not prove that it has this worker's");
}

}  // namespace bora
