// What the scheduler remembers of a plan until its result is back, and whether a result is an
// answer to it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "model/step/step.h"
#include "model/step/step_cost.h"

namespace bora {

// What a plan asked for by one of its rows.
struct RowInFlight {
  uint64_t handle = 0;  // of the sequence, which may have ended meanwhile
  int32_t slot = 0;
  int32_t position = 0;
  int32_t n_tokens = 0;
  bool sample = false;
  int32_t n_prompt_logprobs = 0;  // prompt tokens with log-probabilities, from position + 1 on
  // Alternatives of each token; -1: not even the token's log-probability.
  int32_t n_top = -1;
  int32_t n_prompt_top = -1;
};

// A plan whose result is not back. A plain value.
struct StepInFlight {
  int64_t step_id = 0;
  std::vector<RowInFlight> rows;  // in the plan's order
  StepWork work;
  double predicted_us = 0;  // in its slowest stage
};

// Whether the result has exactly the tokens that the step asked for, in its order, and each passes
// CheckSampledToken; otherwise INTERNAL says what is wrong. The step ids are not compared.
absl::Status CheckStepResult(const StepInFlight& step, const StepResult& result,
                             int32_t vocab_size);

// Whether a worker may say this of a token that a plan asked for. n_top is the number of
// alternatives that were asked for, or -1 if not even the token's log-probability was. INTERNAL
// names the value that no correct worker sends: a token, alternative or rank outside of the
// vocabulary, more alternatives than were asked for, a log-probability that is not a number. Linear
// in n_top.
absl::Status CheckSampledToken(const SampledToken& token, int32_t n_top, int32_t vocab_size);

}  // namespace bora
