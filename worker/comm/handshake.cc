#include "worker/comm/handshake.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/comm/link/link.h"
#include "worker/comm/mesh.h"

namespace bora {

Mac HandshakeProof(absl::string_view secret, HandshakeRole role, const HelloMessage& hello,
                   const Nonce& acceptor_nonce) {
  std::vector<uint8_t> message;
  message.push_back(role == HandshakeRole::kConnector ? 'C' : 'A');
  const absl::Span<const uint8_t> hello_bytes = AsBytes(hello);
  message.insert(message.end(), hello_bytes.begin(), hello_bytes.end());
  message.insert(message.end(), acceptor_nonce.begin(), acceptor_nonce.end());
  return HmacSha256(secret, message);
}

absl::Status CheckHello(const HelloMessage& hello) {
  if (hello.magic != kHandshakeMagic) return absl::InvalidArgumentError("not a Bora link");
  if (hello.version != kHandshakeVersion) {
    return absl::InvalidArgumentError(absl::StrCat("link protocol version ", hello.version,
                                                   ", this worker speaks ", kHandshakeVersion));
  }
  if (hello.link_kind != static_cast<uint32_t>(LinkKind::kSharedMemory) &&
      hello.link_kind != static_cast<uint32_t>(LinkKind::kTcp)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown link kind ", hello.link_kind));
  }
  return absl::OkStatus();
}

}  // namespace bora
