// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): a
// counter-based random number generator. A value is a pure function of (key, counter). So a token
// drawn with (seed, position) does not depend on the step, batch or worker that draws it, and dummy
// weights do not depend on the rank that makes them. constexpr, so that CUDA kernels can call the
// functions too.
#pragma once

#include <array>
#include <cstdint>

namespace bora {

// Four random 32-bit words for a 64-bit key and a 128-bit counter, given as two halves. Ten rounds;
// the multipliers and the key increments are the paper's.
constexpr std::array<uint32_t, 4> Philox4x32(uint64_t key, uint64_t counter_low,
                                             uint64_t counter_high) {
  std::array<uint32_t, 4> c = {
      static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
      static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// A double uniform in [0, 1), a multiple of 2^-53, made of the upper 53 bits of the two words.
constexpr double UniformDouble(uint32_t high, uint32_t low) {
  const uint64_t bits = ((static_cast<uint64_t>(high) << 32) | low) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

// A float uniform in [0, 1), a multiple of 2^-24, made of the upper 24 bits of the word.
constexpr float UniformFloat(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace bora
