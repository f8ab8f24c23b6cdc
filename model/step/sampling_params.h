// How one request's next token is chosen, as data: shared by the coordinator, which validates it,
// and the workers, which obey it.
#pragma once

#include <cstdint>
#include <vector>

namespace bora {

// Limits that every part may rely on; the public API refuses values beyond them.
inline constexpr int32_t kMaxLogprobs = 20;      // alternatives of a token
inline constexpr int32_t kMaxStopTokenIds = 64;  // of a request
inline constexpr float kMaxTemperature = 100.0f;
inline constexpr int32_t kMaxTopK = 1 << 20;  // above any vocabulary
inline constexpr float kMinRepetitionPenalty = 0.01f;
inline constexpr float kMaxRepetitionPenalty = 100.0f;
inline constexpr float kMaxPenalty = 2.0f;  // frequency and presence, either sign

// Penalties first move the logits of tokens that the sequence has already. For a token in the
// prompt or among the generated tokens, logit = logit / repetition_penalty if the logit is positive
// and logit * repetition_penalty otherwise; then for a token that was generated n > 0 times, logit
// -= frequency_penalty * n + presence_penalty. Results stay finite.
//
// A token is drawn from softmax(logits / temperature), restricted in this order: top_k most
// probable, then the smallest set whose probability reaches top_p, then those with at least min_p
// times the probability of the best. Ties in probability are ordered by token id, lowest first. The
// draw among the remaining tokens is a pure function of logits, seed and the new token's position
// (kernels/draw.h defines it to the bit): never of step, batch, worker or device.
//
// sampling_fields.h lists the parameters with a fixed range; the initialisers are the API's
// defaults.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, the most probable token, the lowest id among equals
  float top_p = 1.0f;
  int32_t top_k = 0;  // 0: no limit
  float min_p = 0.0f;
  uint64_t seed = 0;
  // Number of most probable alternatives that are reported with each token, [0, kMaxLogprobs]; -1:
  // no log-probabilities at all. Log-probabilities are of softmax(logits): before penalties,
  // temperature and restrictions.
  int32_t n_logprobs = -1;
  // The same for tokens of the prompt. Unless -1, every row of the prompt passes through the LM
  // head.
  int32_t n_prompt_logprobs = -1;
  // stop_token_ids cannot be drawn while fewer than min_tokens tokens have been generated
  // (log-probabilities still include them).
  int32_t min_tokens = 0;
  std::vector<int32_t> stop_token_ids;  // ascending, unique
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;

  bool has_penalties() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }

  bool operator==(const SamplingParams&) const = default;
};

}  // namespace bora
