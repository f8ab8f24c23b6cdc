// HMAC-SHA256 and nonces, with which one side proves to the other that it knows a secret without
// sending the secret. A library of its own, since it needs OpenSSL. All functions are thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bora {

// A random number used once, so that a recorded proof is worth nothing later.
using Nonce = std::array<uint8_t, 32>;
// A message authentication code: the output of HMAC-SHA256, 32 bytes.
using Mac = std::array<uint8_t, 32>;

// 32 bytes from the kernel's random number generator. Aborts if the kernel gives none (CHECK).
Nonce RandomNonce();

// HMAC-SHA256 (RFC 2104) of `message` under `key`.
Mac HmacSha256(absl::string_view key, absl::Span<const uint8_t> message);

// Whether the two are equal. Takes the same time wherever they differ, so that timing tells an
// attacker nothing.
bool SameMac(const Mac& a, const Mac& b);

}  // namespace bora
