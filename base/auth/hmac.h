// Proofs that a secret is known, without telling it: HMAC-SHA256 and the nonces that it is taken
// over. A library of its own, as it needs OpenSSL.
#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bora {

using Nonce = std::array<uint8_t, 32>;
using Mac = std::array<uint8_t, 32>;

// 32 bytes of the kernel's generator.
Nonce RandomNonce();

Mac HmacSha256(absl::string_view key, absl::Span<const uint8_t> message);

// Compares in constant time.
bool SameMac(const Mac& a, const Mac& b);

}  // namespace bora
