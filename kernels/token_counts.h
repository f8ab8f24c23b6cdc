// How often a sequence has each token, for penalties.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace bora {

// Set in the count of a token that the prompt has; the other bits say how often it was generated.
inline constexpr uint32_t kTokenInPrompt = uint32_t{1} << 31;

// Replaces the counts of all token ids, [vocab_size]. known_tokens: the prompt, n_prompt_tokens
// long, then what was generated.
void CountTokens(absl::Span<const int32_t> known_tokens, int64_t n_prompt_tokens,
                 absl::Span<uint32_t> counts);

}  // namespace bora
