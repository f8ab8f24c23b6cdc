// How a token is drawn, exactly. The CPU's and CUDA's implementations of Sample share this file, so
// that both draw the same token from the same logits.
//
// Gumbel-max (Gumbel 1954; Maddison et al., "A* Sampling", 2014): add an independent standard
// Gumbel number g to each token's logit / temperature. The token with the greatest sum is then
// distributed as softmax(logits / temperature); restricted to any set of tokens it is distributed
// as the softmax over that set. Here
//
//   score(id) = logit(id) / temperature + g(id),   g = -log(-log(u)),   u = (word + 1/2) * 2^-32.
//
// `word` is output word id % 4 of Philox4x32-10 with the key `seed` and the counter {id / 4,
// position, kDrawStream}, low half first. The greatest score wins; among equal scores, the lowest
// id. A token's score depends on (seed, position, id, logit, temperature) alone. Hence the winner
// of a vocabulary is the best of the winners of its parts, and two models that draw with the same
// seed and position mostly draw the same token if their logits are alike.
//
// Scores are doubles. Each operation is rounded to nearest once, in the order that the code below
// states, with log from kernels/exact_math.h.
//
// The error of 32-bit words. A token of probability p wins against all others together if u^((1 -
// p) / p) exceeds a uniform number. The mean of that power over the 2^32 values of u is the
// midpoint rule for its integral p, with the relative error 2^-64 / (24 p^2): 2e-9 for p = 1e-6, 4
// % for p = 2^-32. g lies in [-3.14, 22.88]: -log(-log(2^-33)) and -log(-log(1 - 2^-33)). So a
// token whose logit / temperature is more than 26.02 below the best one's is never drawn; it is
// less than 2^-37.5 times as probable as the best.
//
// While a row is searched, a token whose logit / temperature is more than 22.88 below the best
// score so far cannot win, and most of the others are ruled out by GumbelBound, which needs no
// logarithm.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "base/philox.h"
#include "kernels/exact_math.h"

namespace bora {

// Upper half of the Philox counter. It is reserved for draws, so that no other use of the same seed
// gets the same numbers.
inline constexpr uint64_t kDrawStream = 0x67756d62656c;  // "gumbel"

// Tokens whose random words come from one Philox block.
inline constexpr int kTokensPerDrawBlock = 4;

// The random words of tokens [4 * block_idx, 4 * block_idx + 4) at a position >= 0 of the sequence.
constexpr std::array<uint32_t, 4> DrawWords(uint64_t seed, int32_t position, int64_t block_idx) {
  const uint64_t counter =
      (static_cast<uint64_t>(position) << 32) | static_cast<uint64_t>(block_idx);
  return Philox4x32(seed, counter, kDrawStream);
}

// Returns words[i] for i in [0, 4). Written as choices: on a GPU an array with an index that is not
// a constant would be placed in memory.
constexpr uint32_t WordAt(const std::array<uint32_t, 4>& words, int i) {
  return i < 2 ? (i == 0 ? words[0] : words[1]) : (i == 2 ? words[2] : words[3]);
}

// The random word of one token.
constexpr uint32_t DrawWord(uint64_t seed, int32_t position, int32_t token_id) {
  return WordAt(DrawWords(seed, position, token_id / kTokensPerDrawBlock),
                token_id % kTokensPerDrawBlock);
}

// The value as a double, with subnormal floats replaced by 0. Operations treat subnormal floats as
// 0 everywhere.
constexpr double WithoutSubnormal(float value) {
  const bool is_normal = (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0;
  return is_normal ? static_cast<double>(value) : 0.0;
}

// The Gumbel number g of a random word. u = (word + 1/2) * 2^-32 is exact in double.
constexpr double GumbelOf(uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * 0x1p-32;
  return -Log(-Log(u));
}

// The score of a token at a temperature that is a normal float; the token of the greatest score is
// drawn.
constexpr double DrawScore(float logit, float temperature, uint32_t word) {
  return WithoutSubnormal(logit) / static_cast<double>(temperature) + GumbelOf(word);
}

// Whether the best token is taken without a draw. A subnormal temperature counts as 0.
constexpr bool IsGreedy(float temperature, int32_t top_k) {
  return temperature < 0x1p-126f || top_k == 1;
}

// An upper bound of g, at least 0, computed without logarithms. With v = 2^32 - 1 - word, -log u >=
// 1 - u >= (v >> 1) * 2^-31, and a float's bits taken as an integer, times 2^-23, are at most its
// binary logarithm + 127.
constexpr float GumbelBound(uint32_t word) {
  const auto bits = std::bit_cast<int32_t>(static_cast<float>(static_cast<int32_t>(~word >> 1)));
  constexpr float kUnit = 0x1.62e43p-24f;  // 2^-23 log 2
  return static_cast<float>((127 + 31) * (1 << 23) - bits) * kUnit;
}

// Above every g, whose maximum is 22.88.
inline constexpr float kMaxGumbel = 23.0f;

// A threshold: a token can beat `score` only if logit + temperature * GumbelBound(word), computed
// in float, reaches it. It lies below score * temperature by more than the roundings on the way:
// three roundings of at most 2^-23 relative to terms of at most |score * temperature| or 110 *
// temperature if the sum is near the threshold. The result is finite.
constexpr float LeastToBeat(double score, float temperature) {
  const double exact = score * static_cast<double>(temperature);
  const double magnitude = exact < 0 ? -exact : exact;
  const double least =
      exact - 0x1p-20 * (magnitude + 128.0 * static_cast<double>(temperature)) - 0x1p-100;
  constexpr double kMax = 0x1.fffffep127;
  return static_cast<float>(least > kMax ? kMax : least < -kMax ? -kMax : least);
}

// Weights, for the restrictions min_p and top_p. A token's weight is e^((logit - best) /
// temperature), with `best` the greatest logit among the tokens to choose from. min_p keeps the
// tokens whose weight, in double, reaches it. top_p adds up integer weights in units of 2^-43,
// rounded to nearest even: sums of 2^20 of them are below 2^64 and exact, so they do not depend on
// the order of addition. A token less probable than 2^-44 of the best has integer weight 0.
// Most tokens of a vocabulary: more could overflow a sum of integer weights.
inline constexpr int64_t kMaxDrawTokens = int64_t{1} << 20;
// The integer weight of the best token.
inline constexpr double kOneWeight = 0x1p43;

// The weight of a token with logit <= best_logit. REQUIRES: temperature > 0.
constexpr double WeightOf(float logit, double best_logit, double temperature) {
  return Exp((WithoutSubnormal(logit) - best_logit) / temperature);
}

// weight * kOneWeight as an integer, for a weight in [0, 1]: adding 2^52 rounds the product to one.
constexpr uint64_t IntegerWeight(double weight) {
  constexpr double kRound = 0x1p52;
  return std::bit_cast<uint64_t>(weight * kOneWeight + kRound) - std::bit_cast<uint64_t>(kRound);
}

// The least integer that is at least top_p * total and at least 1. The computation is exact if
// top_p is at least 2^-40: such a float has 24 significant bits and is a multiple of 2^-64. Below
// that the cut-off bits do not matter, because any result up to kOneWeight means the best token
// alone.
// REQUIRES: 0 < top_p < 1.
constexpr uint64_t EnoughOf(float top_p, uint64_t total) {
  const auto fraction = static_cast<uint64_t>(static_cast<double>(top_p) * 0x1p64);
  const unsigned __int128 product = static_cast<unsigned __int128>(fraction) * total;
  const auto enough =
      static_cast<uint64_t>(product >> 64) + (static_cast<uint64_t>(product) != 0 ? 1 : 0);
  return enough == 0 ? 1 : enough;
}

}  // namespace bora
