// Chooses the next token from a row of logits, and computes log-probabilities of given tokens.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/device_views.h"
#include "kernels/token_counts.h"
#include "model/step/sampling_params.h"
#include "model/step/step.h"

namespace bora {

// One row of logits: either draw a token from it, or score the given target token.
struct SampleRow {
  const float* logits = nullptr;  // [n_tokens] or more
  const SamplingParams* sampling = nullptr;
  int32_t slot = 0;
  int32_t position = 0;            // of the token to be drawn or scored; a key of the random number
  int32_t n_generated_tokens = 0;  // generated before this token; for min_tokens
  // >= 0: nothing is drawn; this token's log-probability is reported, with n_prompt_logprobs
  // alternatives. -1: draw a token.
  int32_t target_token_id = -1;
  // [n_tokens] or more counts, as CountTokens fills them, of the tokens that the sequence has
  // before this one. Required if the sampling has penalties, else unused.
  const uint32_t* token_counts = nullptr;
};

// Draws or scores a token for each row; out gets one SampledToken per row, in order. Called by the
// device's thread.
// REQUIRES: 0 < n_tokens <= kMaxDrawTokens, and targets are below n_tokens.
//
// Penalties act on the logits first. Each restriction of SamplingParams then acts on the
// renormalised distribution that the one before it left. Which tokens remain and which of them is
// drawn is defined in kernels/draw.h to the bit: it depends neither on the instruction set nor on
// whether the CPU or a GPU draws. If min_tokens would ban every token, it bans none.
//
// The tokens are [0, n_tokens). Logits beyond them (the padding of a vocabulary, or ids that the
// tokenizer does not have) are not read, be they finite or not.
//
// A row with any non-finite logit gets non_finite = true, token_id = -1 and no log-probabilities;
// the other rows are not affected. A log-probability is logit - logsumexp(all n_tokens logits of
// the row), computed in double and rounded to float. A rank is 1 + the number of tokens that have a
// greater logit, or an equal logit and a lower id.
void Sample(CpuDevice& device, int64_t n_tokens, absl::Span<const SampleRow> rows,
            std::vector<SampledToken>* out);

// SamplingParams, SampleRow and SampledToken as they lie in device memory, of fixed size. Fields of
// the same name have the same meaning.
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

// REQUIRES: at most kMaxStopTokenIds stop tokens.
CudaSampling ToCudaSampling(const SamplingParams& sampling);

struct CudaSampleRow {
  int32_t slot = 0;  // negative: the row is skipped
  int32_t position = 0;
  int32_t n_generated_tokens = 0;
  int32_t target_token_id = -1;
};

struct CudaSampledToken {
  int32_t token_id = -1;
  int32_t rank = 0;
  float logprob = 0;
  int32_t non_finite = 0;  // 1: a logit was not finite; token_id is -1
  int32_t n_top = 0;       // valid elements of top
  TokenLogprob top[kMaxLogprobs];
};

// A drawn or scored token in host form. row: the row that it was sampled for.
SampledToken ToSampledToken(const CudaSampledToken& token, const CudaSampleRow& row);

// The arguments of Sample on a GPU; all pointers are device memory.
struct CudaSampleCall {
  int64_t n_rows = 0;
  int64_t n_tokens = 0;
  int64_t row_stride = 0;  // floats between rows of logits, counts between slots; >= n_tokens
  const float* logits = nullptr;           // [n_rows, row_stride]
  const CudaSampleRow* rows = nullptr;     // [n_rows]
  const CudaSampling* sampling = nullptr;  // by slot
  CudaSampledToken* sampled = nullptr;     // [n_rows]
  // By slot: the token that the slot's row drew last, or 0 if its logits were not finite. Rows with
  // a target token leave it alone. May be null.
  int32_t* last_tokens = nullptr;
  // [n_slots, row_stride] token counts as CountTokens fills them. A row whose slot has penalties
  // reads its counts and then adds its drawn token. May be null if no row's slot has penalties.
  uint32_t* token_counts = nullptr;
};

// Sample on a GPU, queued on the device's stream without a wait; uses its scratch. It draws the
// same tokens as the CPU from the same logits. Sums of exponentials are added in another order, so
// the last bit of a log-probability may differ.
void Sample(CudaDevice& device, const CudaSampleCall& call);

// CudaDevice::Scratch in bytes that Sample takes for at most max_rows rows.
int64_t SampleScratchBytes(int64_t max_rows, int64_t n_tokens);

}  // namespace bora
