// Penalties and the order of tokens, shared by the CPU's and CUDA's implementations of Sample.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/token_counts.h"

namespace bora {

// A token's logit after the penalties. Sampling is SamplingParams or CudaSampling. token_count: as
// CountTokens fills it. Each operation is rounded once, on every device: they must not be fused.
// The result is finite if the logit is.
template <typename Sampling>
constexpr float PenalizedLogit(float logit, uint32_t token_count, const Sampling& sampling) {
  if (token_count == 0) return logit;
  float penalized =
      logit > 0 ? logit / sampling.repetition_penalty : logit * sampling.repetition_penalty;
  const uint32_t n_generated = token_count & ~kTokenInPrompt;
  if (n_generated > 0) {
    penalized -= sampling.frequency_penalty * static_cast<float>(n_generated);
    penalized -= sampling.presence_penalty;
  }
  constexpr float kMax = std::numeric_limits<float>::max();
  return penalized > kMax ? kMax : penalized < -kMax ? -kMax : penalized;
}

// A key by which tokens are in order: ascending keys are descending logits and, among equal logits,
// ascending ids. -0 and subnormal logits equal 0. The upper half of a key depends on the logit
// alone; for a finite logit it is in [0x00800000, 0xff7fffff].
constexpr uint64_t OrderKey(float logit, int64_t token_id) {
  // Without branches, because the signs of logits are random and branches on them mispredicted.
  uint32_t bits = std::bit_cast<uint32_t>(logit);
  bits &= 0u - static_cast<uint32_t>((bits & 0x7f800000u) != 0);
  const uint32_t descending = bits ^ (((bits >> 31) - 1u) & 0x7fffffffu);
  return (uint64_t{descending} << 32) | static_cast<uint64_t>(token_id);
}

// The token id of a key.
constexpr int32_t TokenOf(uint64_t key) { return static_cast<int32_t>(key & 0xffffffffu); }

}  // namespace bora
