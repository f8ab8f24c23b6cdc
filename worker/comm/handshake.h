// Wire format and cryptography of the link handshake; no I/O. The rank that dials is the connector,
// the other the acceptor. Each side proves that it knows the epoch's secret without sending it.
//
//   connector -> acceptor  Hello      ranks, epoch and link kind, a fresh nonce
//   acceptor  -> connector Challenge  a fresh nonce, the acceptor's proof over both nonces
//   connector -> acceptor  Proof      the connector's proof over both nonces (+ memfd and doorbell)
//   acceptor  -> connector Ready      link accepted (+ doorbell)
//
// The descriptors in brackets travel only if the link is shared memory. A proof is
// HMAC-SHA256(secret, role | Hello | acceptor nonce). The nonces make a recorded handshake useless,
// the role keeps a proof from being sent back as one's own, and the Hello in it binds epoch, ranks,
// link kind and ring size. All fields are little-endian. Everything here is thread-safe.
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
inline constexpr uint32_t kHandshakeVersion = 1;     // raised with every change of the messages
inline constexpr uint32_t kReadyMagic = 0x52454459;  // "YDER"
inline constexpr int64_t kMinSecretBytes = 16;       // 128 bits: cannot be guessed

struct HelloMessage {
  std::array<char, 8> magic = kHandshakeMagic;
  uint32_t version = kHandshakeVersion;
  uint32_t link_kind = 0;  // a LinkKind
  int64_t epoch = 0;
  int32_t from_rank = 0;   // the connector's rank
  int32_t to_rank = 0;     // the acceptor's rank
  int64_t ring_bytes = 0;  // MeshOptions::ring_bytes, which must be equal on both sides
  Nonce nonce = {};        // the connector's
};
static_assert(sizeof(HelloMessage) == 72);

struct ChallengeMessage {
  Nonce nonce = {};  // the acceptor's
  Mac proof = {};    // with HandshakeRole::kAcceptor
};
struct ProofMessage {
  Mac proof = {};  // with HandshakeRole::kConnector
};
struct ReadyMessage {
  uint32_t magic = kReadyMagic;
};

enum class HandshakeRole { kConnector, kAcceptor };

// The proof that the side in `role` sends, and that the other side computes to compare.
Mac HandshakeProof(absl::string_view secret, HandshakeRole role, const HelloMessage& hello,
                   const Nonce& acceptor_nonce);

// INVALID_ARGUMENT if the magic, version or link kind of a received Hello is not one of this
// protocol. Rendezvous::CheckHello checks the fields that depend on the epoch.
absl::Status CheckHello(const HelloMessage& hello);

// The bytes of a message above as they are sent or received; views of `message`.
template <typename Message>
absl::Span<const uint8_t> AsBytes(const Message& message) {
  return BytesOf(absl::MakeConstSpan(&message, 1));
}
template <typename Message>
absl::Span<uint8_t> AsMutableBytes(Message& message) {
  return MutableBytesOf(absl::MakeSpan(&message, 1));
}

}  // namespace bora
