// How often each token occurs in a sequence, for the penalties of SamplingParams.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace bora {

// The bit that is set in the count of a token that occurs in the prompt. The other bits hold how
// often the token was generated.
inline constexpr uint32_t kTokenInPrompt = uint32_t{1} << 31;

// Fills counts, [vocab_size], from known_tokens: the n_prompt_tokens tokens of the prompt, then the
// generated ones.
// REQUIRES: every token id is in [0, vocab_size).
void CountTokens(absl::Span<const int32_t> known_tokens, int64_t n_prompt_tokens,
                 absl::Span<uint32_t> counts);

}  // namespace bora
