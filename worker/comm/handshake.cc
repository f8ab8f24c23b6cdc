#include "worker/comm/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "worker/comm/communicator.h"

namespace bora {

Nonce RandomNonce() {
  Nonce nonce;
  const ssize_t n = getrandom(nonce.data(), nonce.size(), 0);
  CHECK_EQ(n, static_cast<ssize_t>(nonce.size()));
  return nonce;
}

Mac HmacSha256(absl::string_view key, absl::Span<const uint8_t> message) {
  Mac mac;
  unsigned int n_bytes = 0;
  const unsigned char* done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                                   message.data(), message.size(), mac.data(), &n_bytes);
  CHECK(done != nullptr && n_bytes == mac.size());
  return mac;
}

Mac HandshakeProof(absl::string_view secret, HandshakeRole role, const HelloMessage& hello,
                   const Nonce& acceptor_nonce) {
  std::vector<uint8_t> message;
  message.push_back(role == HandshakeRole::kConnector ? 'C' : 'A');
  const absl::Span<const uint8_t> hello_bytes = AsBytes(hello);
  message.insert(message.end(), hello_bytes.begin(), hello_bytes.end());
  message.insert(message.end(), acceptor_nonce.begin(), acceptor_nonce.end());
  return HmacSha256(secret, message);
}

bool SameMac(const Mac& a, const Mac& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
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
