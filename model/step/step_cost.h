// What the time of a step depends on, and how:
//
//   us = base_us + context_token_us * context_tokens + pair_us * pairs
//
// base_us is what a step of so many tokens costs whatever their contexts: products with the
// weights, collectives, what a step costs in any case. context_tokens is the cache that rows read,
// pairs the products of attention. The scheduler learns the coefficients from steps that have been
// run (coordinator/scheduler/step_cost_model.h); the planner derives them from the limits of
// hardware (model/planning/roofline.h).
#pragma once

#include <cstdint>

namespace bora {

// What a step does, as far as its time depends on it.
struct StepWork {
  int64_t n_tokens = 0;
  int64_t context_tokens = 0;  // sum over rows: tokens of the sequence up to the row's last
  int64_t pairs = 0;           // sum over rows: n_tokens * context of the row's middle

  // One row of n_tokens > 0 from `position` on.
  void Add(int64_t position, int64_t row_tokens) {
    n_tokens += row_tokens;
    context_tokens += position + row_tokens;
    pairs += row_tokens * (position + (row_tokens + 1) / 2);
  }
};

// What contexts cost. A plain value.
struct ContextCost {
  double context_token_us = 0;
  double pair_us = 0;
};

// Microseconds of a step that does `work`, where base_us is what work.n_tokens tokens cost.
inline double StepMicroseconds(double base_us, const ContextCost& cost, const StepWork& work) {
  return base_us + cost.context_token_us * static_cast<double>(work.context_tokens) +
         cost.pair_us * static_cast<double>(work.pairs);
}

}  // namespace bora
