// How far an engine's log-probabilities may be from the float64 reference's, and how far they are.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "model/step/step.h"
#include "tests/reference/reference.h"
#include "tests/worker/reference_inputs.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {

// Greedy requests that report as many log-probabilities as there may be.
inline std::vector<WorkRequest> GreedyRequests(uint64_t seed) {
  std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 5, seed);
  for (WorkRequest& request : requests) {
    request.n_generate = 12;
    request.sampling = {
        .temperature = 0, .n_logprobs = kMaxLogprobs, .n_prompt_logprobs = kMaxLogprobs};
  }
  return requests;
}

// Of the tiny model. Rounding errors, as independent errors relative to values of order one: the
// logits' standard deviation. In float, each of 5 sums a layer (qkv, scores and values, wo, w13,
// w2) of at most K = 96 terms errs by about sqrt(K) 2^-24. In bf16, each of n_roundings a layer
// errs by 2^-9 / sqrt(3), the standard deviation of a uniform relative error up to 2^-9. 4 layers
// and the head add up in squares; 6 standard deviations bound the maximum over some ten thousand
// values.
inline double FloatTolerance() { return 6 * std::sqrt(4 * 5 + 1.0) * std::sqrt(96.0) * 0x1p-24; }
inline double Bf16Tolerance(int n_roundings) {
  return 6 * std::sqrt(4 * n_roundings + 1.0) * 0x1p-9 / std::sqrt(3.0);
}

// The reference's log-probabilities after each of the tokens: [n_tokens, vocab_size].
inline reference::Vector ReferenceLogprobs(const WeightSource& source, DType dtype,
                                           const std::vector<int32_t>& tokens) {
  const int64_t vocab_size = source.config().vocab_size;
  const reference::Vector logits =
      reference::Forward(ReferenceConfig(source.config()), ReferenceWeights(source, dtype), tokens);
  reference::Vector out;
  for (auto row = logits.begin(); row != logits.end(); row += vocab_size) {
    const reference::Vector logprobs =
        reference::LogSoftmax(reference::Vector(row, row + vocab_size));
    out.insert(out.end(), logprobs.begin(), logprobs.end());
  }
  return out;
}

inline double WorstDifference(const std::vector<SampledToken>& tokens,
                              const reference::Vector& logprobs, int64_t vocab_size) {
  double worst = 0;
  const auto expect = [&](int32_t position, int32_t token_id) {
    return logprobs[(position - 1) * vocab_size + token_id];
  };
  for (const SampledToken& token : tokens) {
    worst = std::max(worst, std::abs(token.logprob - expect(token.position, token.token_id)));
    for (const TokenLogprob& top : token.top) {
      worst = std::max(worst, std::abs(top.logprob - expect(token.position, top.token_id)));
    }
  }
  return worst;
}

// A request's prompt and what was generated.
inline std::vector<int32_t> TokensOf(const WorkRequest& request, const WorkOutcome& outcome) {
  std::vector<int32_t> tokens = request.prompt;
  for (const int32_t token_id : outcome.token_ids()) tokens.push_back(token_id);
  return tokens;
}

}  // namespace bora
