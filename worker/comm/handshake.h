// Wire format and cryptography of the link handshake; no I/O.
//
//   connector -> acceptor  Hello      who, which epoch, a fresh nonce
//   acceptor  -> connector Challenge  a fresh nonce, proof of the secret over both nonces
//   connector -> acceptor  Proof      proof of the secret over both nonces (+ memfd and doorbell)
//   acceptor  -> connector Ready      link accepted (+ doorbell)
//
// A proof is HMAC-SHA256(secret, role | Hello | acceptor nonce). The nonces make a recorded
// handshake useless, the role keeps a proof from being reflected, the Hello inside binds epoch,
// ranks, link kind and ring size. All fields are little-endian.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/auth/hmac.h"
#include "base/bytes.h"

namespace bora {

static_assert(std::endian::native == std::endian::little, "wire structs are sent as they are");

inline constexpr std::array<char, 8> kHandshakeMagic = {'B', 'O', 'R', 'A', 'L', 'I', 'N', 'K'};
inline constexpr uint32_t kHandshakeVersion = 1;
inline constexpr uint32_t kReadyMagic = 0x52454459;  // "YDER"
inline constexpr int64_t kMinSecretBytes = 16;

struct HelloMessage {
  std::array<char, 8> magic = kHandshakeMagic;
  uint32_t version = kHandshakeVersion;
  uint32_t link_kind = 0;  // LinkKind
  int64_t epoch = 0;
  int32_t from_rank = 0;
  int32_t to_rank = 0;
  int64_t ring_bytes = 0;
  Nonce nonce = {};
};
static_assert(sizeof(HelloMessage) == 72);

struct ChallengeMessage {
  Nonce nonce = {};
  Mac proof = {};
};
struct ProofMessage {
  Mac proof = {};
};
struct ReadyMessage {
  uint32_t magic = kReadyMagic;
};

enum class HandshakeRole { kConnector, kAcceptor };

// What `role` sends to prove that it knows the secret.
Mac HandshakeProof(absl::string_view secret, HandshakeRole role, const HelloMessage& hello,
                   const Nonce& acceptor_nonce);

// Magic, version and link kind of a Hello that came from anywhere; the rest needs the epoch's data.
absl::Status CheckHello(const HelloMessage& hello);

template <typename Message>
absl::Span<const uint8_t> AsBytes(const Message& message) {
  return BytesOf(absl::MakeConstSpan(&message, 1));
}
template <typename Message>
absl::Span<uint8_t> AsMutableBytes(Message& message) {
  return MutableBytesOf(absl::MakeSpan(&message, 1));
}

}  // namespace bora
