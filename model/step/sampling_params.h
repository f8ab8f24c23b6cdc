// How the next token of a request is chosen, as plain data: the coordinator validates it, the
// workers sample by it.
#pragma once

#include <cstdint>
#include <vector>

namespace bora {

// Upper and lower limits of parameters. The public API and ValidatePlan refuse values beyond them,
// so all code behind may rely on them.
inline constexpr int32_t kMaxLogprobs = 20;      // alternatives reported with a token
inline constexpr int32_t kMaxStopTokenIds = 64;  // of one request
inline constexpr float kMaxTemperature = 100.0f;
inline constexpr int32_t kMaxTopK = 1 << 20;  // above any vocabulary
inline constexpr float kMinRepetitionPenalty = 0.01f;
inline constexpr float kMaxRepetitionPenalty = 100.0f;
inline constexpr float kMaxPenalty = 2.0f;  // frequency and presence, either sign

// Penalties come first; they change the logits of tokens that occur in the sequence already. For a
// token in the prompt or among the generated tokens, logit = logit / repetition_penalty if the
// logit is positive, and logit * repetition_penalty otherwise. Then for a token that was generated
// n > 0 times, logit = logit - frequency_penalty * n - presence_penalty. The results are finite if
// the logits are.
//
// Then a token is drawn from softmax(logits / temperature), restricted in this order: to the top_k
// most probable tokens, to the smallest set of them whose probability reaches top_p, and to the
// tokens with at least min_p times the probability of the best one. Ties in probability are ordered
// by token id, lowest first. The draw among the remaining tokens is a pure function of logits, seed
// and the new token's position (kernels/draw.h defines it to the bit). It does not depend on step,
// batch, worker or device.
//
// sampling_fields.h has the ranges of the parameters with a fixed range. The initialisers are the
// API's defaults. A plain value.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy: the most probable token, the lowest id among equals
  float top_p = 1.0f;        // 1: no restriction
  int32_t top_k = 0;         // 0: no limit
  float min_p = 0.0f;        // 0: no restriction
  uint64_t seed = 0;         // any value
  // Number of most probable alternatives that are reported with each generated token, in [0,
  // kMaxLogprobs]; -1: no log-probabilities at all. Log-probabilities are natural logarithms of
  // softmax(logits), before penalties, temperature and restrictions.
  int32_t n_logprobs = -1;
  // The same for each token of the prompt. Unless it is -1, every token of the prompt passes
  // through the LM head, which costs time.
  int32_t n_prompt_logprobs = -1;
  // While fewer than min_tokens tokens have been generated, no token of stop_token_ids can be drawn
  // (reported log-probabilities still include them).
  int32_t min_tokens = 0;
  std::vector<int32_t> stop_token_ids;  // ascending, without duplicates
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;

  // Whether the draw depends on the tokens that the sequence has already.
  bool has_penalties() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }

  bool operator==(const SamplingParams&) const = default;
};

}  // namespace bora
