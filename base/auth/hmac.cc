#include "base/auth/hmac.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include "base/check.h"

namespace bora {

Nonce RandomNonce() {
  Nonce nonce;
  // getrandom gives up to 256 bytes whole and uninterrupted (getrandom(2)).
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

bool SameMac(const Mac& a, const Mac& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace bora
