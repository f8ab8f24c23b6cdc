// The draw by its definition (kernels/draw.h, model/step/sampling_params.h): sort, restrict, take
// the best score. Shares nothing with the product but Philox; logarithms and exponentials are
// libm's, so a score may differ in its last bits, which decides nothing unless two are as close as
// that.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "base/philox.h"
#include "model/step/sampling_params.h"

namespace bora {

// Best first, the lowest id of equals.
inline std::vector<int32_t> InOrder(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

// Whether kept >= top_p * total, exactly.
inline bool ReachesTopP(uint64_t kept, float top_p, uint64_t total) {
  using Wide = unsigned __int128;
  int exponent = 0;
  const auto mantissa = static_cast<uint64_t>(std::ldexp(std::frexp(top_p, &exponent), 24));
  const int shift = 24 - exponent;  // top_p = mantissa * 2^-shift
  // A top_p below 2^-40 asks for less than the best token's 2^43 of at most 2^63.
  return shift > 64 ? kept > 0 : Wide{kept} << shift >= Wide{mantissa} * total;
}

// The tokens that may be drawn, best first. n_generated: before this token.
inline std::vector<int32_t> KeptTokens(const std::vector<float>& logits,
                                       const SamplingParams& sampling, int32_t n_generated) {
  std::vector<int32_t> order = InOrder(logits);
  if (n_generated < sampling.min_tokens) {
    const std::vector<int32_t> all = order;
    for (const int32_t id : sampling.stop_token_ids) std::erase(order, id);
    if (order.empty()) order = all;
  }
  if (sampling.temperature == 0) return {order[0]};
  if (sampling.top_k > 0 && sampling.top_k < static_cast<int64_t>(order.size())) {
    order.resize(sampling.top_k);
  }
  const double max = logits[order[0]];
  const auto weight_of = [&](int32_t id) {
    return std::exp((double{logits[id]} - max) / double{sampling.temperature});
  };
  if (sampling.top_p < 1) {
    std::vector<uint64_t> weights;
    for (const int32_t id : order) {
      weights.push_back(static_cast<uint64_t>(std::nearbyint(weight_of(id) * 0x1p43)));
    }
    const uint64_t total = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
    uint64_t kept = 0;
    size_t n = 0;
    while (!ReachesTopP(kept, sampling.top_p, total) || n == 0) kept += weights[n++];
    order.resize(n);
  }
  std::erase_if(order, [&](int32_t id) { return weight_of(id) < double{sampling.min_p}; });
  return order;
}

inline double ModelScore(float logit, float temperature, uint64_t seed, int32_t position,
                         int32_t id) {
  const uint64_t counter = (static_cast<uint64_t>(position) << 32) + id / 4;
  const uint32_t word = Philox4x32(seed, counter, 0x67756d62656c)[id % 4];
  return double{logit} / double{temperature} - std::log(-std::log((word + 0.5) / 0x1p32));
}

inline int32_t ModelDraw(const std::vector<float>& logits, const SamplingParams& sampling,
                         int32_t position, int32_t n_generated = 0) {
  std::vector<int32_t> kept = KeptTokens(logits, sampling, n_generated);
  if (kept.size() == 1) return kept[0];
  std::sort(kept.begin(), kept.end());
  double best = -std::numeric_limits<double>::infinity();
  int32_t winner = -1;
  for (const int32_t id : kept) {
    const double score = ModelScore(logits[id], sampling.temperature, sampling.seed, position, id);
    if (score > best) {
      best = score;
      winner = id;
    }
  }
  return winner;
}

}  // namespace bora
