// Converts between SamplingParams, SampledToken and their forms in device memory. Host code without
// CUDA.
#include <algorithm>

#include "base/check.h"
#include "kernels/sample.h"

namespace bora {

CudaSampling ToCudaSampling(const SamplingParams& sampling) {
  CHECK_LE(sampling.stop_token_ids.size(), static_cast<size_t>(kMaxStopTokenIds));
  CudaSampling out = {.temperature = sampling.temperature,
                      .top_p = sampling.top_p,
                      .min_p = sampling.min_p,
                      .top_k = sampling.top_k,
                      .seed = sampling.seed,
                      .n_logprobs = sampling.n_logprobs,
                      .n_prompt_logprobs = sampling.n_prompt_logprobs,
                      .min_tokens = sampling.min_tokens,
                      .n_stop_token_ids = static_cast<int32_t>(sampling.stop_token_ids.size()),
                      .repetition_penalty = sampling.repetition_penalty,
                      .frequency_penalty = sampling.frequency_penalty,
                      .presence_penalty = sampling.presence_penalty};
  std::copy(sampling.stop_token_ids.begin(), sampling.stop_token_ids.end(), out.stop_token_ids);
  return out;
}

SampledToken ToSampledToken(const CudaSampledToken& token, const CudaSampleRow& row) {
  return {.slot = row.slot,
          .position = row.position,
          .token_id = token.token_id,
          .logprob = token.logprob,
          .rank = token.rank,
          .top = {token.top, token.top + token.n_top},
          .non_finite = token.non_finite != 0};
}

}  // namespace bora
