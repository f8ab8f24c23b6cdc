// How a token is drawn, exactly: what the CPU's and CUDA's forms of Sample share, so that both draw
// the same token from the same logits.
//
// Gumbel-max (Gumbel 1954; Maddison et al., "A* Sampling", 2014): with independent standard Gumbel
// numbers g, the token of the greatest logit / temperature + g is distributed as softmax(logits /
// temperature); restricted to any set of tokens it is distributed as the softmax over that set.
// Here
//
//   score(id) = logit(id) / temperature + g(id),   g = -log(-log(u)),   u = (word + 1/2) * 2^-32,
//
// word being word id % 4 of Philox4x32-10 with the key `seed` and the counter {id / 4, position,
// kDrawStream}, low half first. The greatest score wins, the lowest id among equals. Nothing but
// (seed, position, id, logit, temperature) enters a token's score, so the winner of a vocabulary is
// the best of the winners of its parts, and two models that draw with the same seed and position
// mostly draw the same token where their logits are alike.
//
// Scores are doubles, each operation rounded to nearest once, in the order that the code below
// says, with log by kernels/exact_math.h.
//
// What 32 bits cost. Against all others together, a token of probability p wins if u^((1 - p) / p)
// exceeds a uniform number; the mean of that power over the 2^32 values of u is the midpoint rule
// for its integral p, with the relative error 2^-64 / (24 p^2): 2e-9 for p = 1e-6, 4 % for 2^-32.
// g lies in [-3.14, 22.88]: -log(-log(2^-33)) and -log(-log(1 - 2^-33)). So a token is never drawn
// whose logit / temperature is 26.02 below the best one's, where it is less than 2^-37.5 times as
// probable. While a row is searched, a token cannot win whose logit / temperature is 22.88 below
// the best score so far; of most others a bound of g that needs no logarithm says the same.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "base/philox.h"
#include "kernels/exact_math.h"

namespace bora {

// Upper half of the Philox counter, so that no other use of the same seed has the same numbers.
inline constexpr uint64_t kDrawStream = 0x67756d62656c;  // "gumbel"

// Tokens whose words come from one Philox block.
inline constexpr int kTokensPerDrawBlock = 4;

// The words of tokens [4 * block_idx, 4 * block_idx + 4) at a position, which is at least 0.
constexpr std::array<uint32_t, 4> DrawWords(uint64_t seed, int32_t position, int64_t block_idx) {
  const uint64_t counter =
      (static_cast<uint64_t>(position) << 32) | static_cast<uint64_t>(block_idx);
  return Philox4x32(seed, counter, kDrawStream);
}

// words[i]: an array with an index that is not constant would lie in memory on a GPU.
constexpr uint32_t WordAt(const std::array<uint32_t, 4>& words, int i) {
  return i < 2 ? (i == 0 ? words[0] : words[1]) : (i == 2 ? words[2] : words[3]);
}

constexpr uint32_t DrawWord(uint64_t seed, int32_t position, int32_t token_id) {
  return WordAt(DrawWords(seed, position, token_id / kTokensPerDrawBlock),
                token_id % kTokensPerDrawBlock);
}

// A float's value; a subnormal one counts as 0, as everywhere inside operations.
constexpr double WithoutSubnormal(float value) {
  const bool is_normal = (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0;
  return is_normal ? static_cast<double>(value) : 0.0;
}

// g. (word + 1/2) * 2^-32 is exact.
constexpr double GumbelOf(uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * 0x1p-32;
  return -Log(-Log(u));
}

constexpr double DrawScore(float logit, float temperature, uint32_t word) {
  return WithoutSubnormal(logit) / static_cast<double>(temperature) + GumbelOf(word);
}

// Whether nothing is left to chance. A subnormal temperature counts as 0.
constexpr bool IsGreedy(float temperature, int32_t top_k) {
  return temperature < 0x1p-126f || top_k == 1;
}

// A number that g does not exceed, without logarithms; at least 0. With v = 2^32 - 1 - word, -log u
// >= 1 - u >= (v >> 1) * 2^-31, and the bits of a float as an integer are, times 2^-23, at most its
// binary logarithm + 127.
constexpr float GumbelBound(uint32_t word) {
  const auto bits = std::bit_cast<int32_t>(static_cast<float>(static_cast<int32_t>(~word >> 1)));
  constexpr float kUnit = 0x1.62e43p-24f;  // 2^-23 log 2
  return static_cast<float>((127 + 31) * (1 << 23) - bits) * kUnit;
}
inline constexpr float kMaxGumbel = 23.0f;

// A token can beat `score` only if logit + temperature * GumbelBound(word), in float, reaches this.
// The second term is above the roundings on the way: three of at most 2^-23 of the terms, which are
// at most |score * temperature| or 110 * temperature where the sum is near the threshold.
constexpr float LeastToBeat(double score, float temperature) {
  const double exact = score * static_cast<double>(temperature);
  const double magnitude = exact < 0 ? -exact : exact;
  const double least =
      exact - 0x1p-20 * (magnitude + 128.0 * static_cast<double>(temperature)) - 0x1p-100;
  constexpr double kMax = 0x1.fffffep127;
  return static_cast<float>(least > kMax ? kMax : least < -kMax ? -kMax : least);
}

// The restrictions. A token's weight is e^((logit - best) / temperature), `best` being the greatest
// logit of the tokens to choose from. min_p keeps tokens whose weight in double reaches it. top_p
// adds up weights in units of 2^-43, rounded to nearest even: sums of 2^20 of them are below 2^64
// and exact, so they do not depend on an order; a token less probable than 2^-44 of the best counts
// as 0 there.
inline constexpr int64_t kMaxDrawTokens = int64_t{1} << 20;
inline constexpr double kOneWeight = 0x1p43;

constexpr double WeightOf(float logit, double best_logit, double temperature) {
  return Exp((WithoutSubnormal(logit) - best_logit) / temperature);
}

// weight * kOneWeight as an integer: adding 2^52 rounds.
constexpr uint64_t IntegerWeight(double weight) {
  constexpr double kRound = 0x1p52;
  return std::bit_cast<uint64_t>(weight * kOneWeight + kRound) - std::bit_cast<uint64_t>(kRound);
}

// The least sum of integer weights that is at least top_p of the total, for top_p < 1: it has 24
// bits and is a multiple of 2^-64, unless it is below 2^-40, where any sum up to kOneWeight means
// the best token alone.
constexpr uint64_t EnoughOf(float top_p, uint64_t total) {
  const auto fraction = static_cast<uint64_t>(static_cast<double>(top_p) * 0x1p64);
  const unsigned __int128 product = static_cast<unsigned __int128>(fraction) * total;
  const auto enough =
      static_cast<uint64_t>(product >> 64) + (static_cast<uint64_t>(product) != 0 ? 1 : 0);
  return enough == 0 ? 1 : enough;
}

}  // namespace bora
