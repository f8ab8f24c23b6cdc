// Choice of the next token from a row of logits, and log-probabilities of given tokens.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/device.h"
#include "model/sampling_params.h"
#include "model/step.h"

namespace bora {

// One row of logits and what to do with it.
struct SampleRow {
  const float* logits = nullptr;  // [vocab_size]
  const SamplingParams* sampling = nullptr;
  int32_t slot = 0;
  int32_t position = 0;            // of the token to be drawn or scored; keys the random number
  int32_t n_generated_tokens = 0;  // before this token, for min_tokens
  // >= 0: do not draw, report this token's log-probability with n_prompt_logprobs alternatives.
  int32_t target_token_id = -1;
};

// Each restriction of SamplingParams acts on the distribution that the one before it left,
// renormalised. A token is drawn by the inverse of the cumulative distribution over the kept
// tokens, most probable first, in double. Exponentials and logarithms are our own
// (kernels/exact_math.h), so a draw does not depend on the machine's libm. When min_tokens would
// ban every token it bans none.
//
// Fills one SampledToken per row, in order. A row with any non-finite logit gets non_finite and
// token_id -1 and touches nothing else. Log-probabilities: logit - logsumexp(all logits of the
// row), in double, rounded to float; rank is 1 + the number of tokens with a greater logit, or an
// equal one and a lower id.
void Sample(CpuDevice& device, int64_t vocab_size, absl::Span<const SampleRow> rows,
            std::vector<SampledToken>* out);

}  // namespace bora
