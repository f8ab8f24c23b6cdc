// How one request's next token is chosen, as data: shared by the coordinator, which validates it,
// and the workers, which obey it.
#pragma once

#include <cstdint>
#include <vector>

namespace bora {

// Limits that every part may rely on; the public API refuses what exceeds them.
inline constexpr int32_t kMaxLogprobs = 20;      // alternatives per token
inline constexpr int32_t kMaxStopTokenIds = 64;  // per request
inline constexpr int32_t kMaxTopK = 1 << 20;     // above any vocabulary

// A token is drawn from softmax(logits / temperature), restricted in this order: top_k most
// probable, then the smallest set whose probability reaches top_p, then those with at least min_p
// times the probability of the best. Ties in probability are ordered by token id, lowest first. The
// draw is a pure function of (seed, position of the new token) by Philox: never of step, batch or
// worker.
struct SamplingParams {
  float temperature =
      1.0f;            // >= 0; 0 means greedy: the most probable token, the lowest id among equals
  float top_p = 1.0f;  // (0, 1]
  int32_t top_k = 0;   // 0 = no limit
  float min_p = 0.0f;  // [0, 1]
  uint64_t seed = 0;
  // Number of most probable alternatives reported with each token, -1 = no log-probabilities at
  // all. Log-probabilities are of softmax(logits): before temperature and restrictions.
  int32_t n_logprobs = -1;
  // The same for prompt tokens; -1 = none. Then every row of the prompt passes through the LM head.
  int32_t n_prompt_logprobs = -1;
  // These ids cannot be drawn while fewer than min_tokens tokens have been generated
  // (log-probabilities still include them). Ascending, unique.
  int32_t min_tokens = 0;
  std::vector<int32_t> stop_token_ids;

  bool operator==(const SamplingParams&) const = default;
};

}  // namespace bora
