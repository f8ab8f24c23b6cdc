// Choice of the next token from a row of logits, and log-probabilities of given tokens.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/device_views.h"
#include "kernels/token_counts.h"
#include "model/step/sampling_params.h"
#include "model/step/step.h"

namespace bora {

// One row of logits and what to do with it.
struct SampleRow {
  const float* logits = nullptr;  // [n_tokens] or more
  const SamplingParams* sampling = nullptr;
  int32_t slot = 0;
  int32_t position = 0;            // of the token to be drawn or scored; keys the random number
  int32_t n_generated_tokens = 0;  // before this token, for min_tokens
  // >= 0: do not draw, report this token's log-probability with n_prompt_logprobs alternatives.
  int32_t target_token_id = -1;
  // [n_tokens] or more, as CountTokens says, of what the sequence has before this token; needed
  // with penalties only.
  const uint32_t* token_counts = nullptr;
};

// Penalties act on the logits first. Each restriction of SamplingParams acts on the distribution
// that the one before it left, renormalised. Which tokens they leave and which of those is drawn is
// defined in kernels/draw.h to the bit: it depends neither on the instruction set nor on whether
// the CPU or a GPU draws. When min_tokens would ban every token it bans none.
//
// The tokens are [0, n_tokens), at most kMaxDrawTokens: what a row has beyond (ids that the model
// has and the tokenizer does not, say) is not looked at, be it finite or not.
//
// Fills one SampledToken per row, in order. A row with any non-finite logit gets non_finite and
// token_id -1 and touches nothing else. Log-probabilities: logit - logsumexp(all logits of the
// row), in double, rounded to float; rank is 1 + the number of tokens with a greater logit, or an
// equal one and a lower id.
void Sample(CpuDevice& device, int64_t n_tokens, absl::Span<const SampleRow> rows,
            std::vector<SampledToken>* out);

// Forms of the above in device memory, of fixed size.
struct CudaSampling {
  float temperature = 1.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;
  uint64_t seed = 0;
  int32_t n_logprobs = -1;
  int32_t n_prompt_logprobs = -1;
  int32_t min_tokens = 0;
  int32_t n_stop_token_ids = 0;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  int32_t stop_token_ids[kMaxStopTokenIds] = {};  // ascending
};
CudaSampling ToCudaSampling(const SamplingParams& sampling);

struct CudaSampleRow {
  int32_t slot = 0;  // a negative one is a row that is skipped
  int32_t position = 0;
  int32_t n_generated_tokens = 0;
  int32_t target_token_id = -1;
};

struct CudaSampledToken {
  int32_t token_id = -1;
  int32_t rank = 0;
  float logprob = 0;
  int32_t non_finite = 0;
  int32_t n_top = 0;
  TokenLogprob top[kMaxLogprobs];
};
SampledToken ToSampledToken(const CudaSampledToken& token, const CudaSampleRow& row);

// What Sample works on, all in device memory.
struct CudaSampleCall {
  int64_t n_rows = 0;
  int64_t n_tokens = 0;
  int64_t row_stride = 0;                  // of logits and token_counts; n_tokens or more
  const float* logits = nullptr;           // [n_rows, row_stride]
  const CudaSampleRow* rows = nullptr;     // [n_rows]
  const CudaSampling* sampling = nullptr;  // by slot
  CudaSampledToken* sampled = nullptr;     // [n_rows]
  // By slot: the token that it drew last, 0 for one that could not be drawn. Rows with a target
  // leave it alone. May be null.
  int32_t* last_tokens = nullptr;
  // [.., row_stride] by slot, as CountTokens says: the drawn token is counted. Of slots with
  // penalties only; may be null when no row's slot has any.
  uint32_t* token_counts = nullptr;
};

// As Sample on the CPU, queued without a wait: the same tokens from the same logits. Sums of
// exponentials are added up in another order, so the last bit of a log-probability may differ.
void Sample(CudaDevice& device, const CudaSampleCall& call);

// CudaDevice::Scratch that Sample takes for at most max_rows rows.
int64_t SampleScratchBytes(int64_t max_rows, int64_t n_tokens);

}  // namespace bora
