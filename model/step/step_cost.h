// The model of a step's duration in microseconds, as the scheduler and the planner use it:
//
//   us = base_us + context_token_us * context_tokens + pair_us * pairs
//
// base_us is the part that depends only on the number of tokens of the step, not on their contexts:
// products with the weights, collectives, and the fixed cost of any step. context_tokens stands for
// the KV cache that rows read, pairs for the products of queries and keys in attention. The
// scheduler learns the coefficients from measured steps (coordinator/scheduler/step_cost_model.h);
// the planner derives them from the limits of the hardware (model/planning/roofline.h).
#pragma once

#include <cstdint>

namespace bora {

// The amount of work in a step, as far as its duration depends on it. A plain value.
struct StepWork {
  int64_t n_tokens = 0;        // of all rows
  int64_t context_tokens = 0;  // sum over rows: tokens of the sequence up to the row's last
  int64_t pairs = 0;           // sum over rows: n_tokens * context length at the row's middle token

  // Adds a row of row_tokens > 0 tokens, the first of which is at `position` >= 0 of its sequence.
  void Add(int64_t position, int64_t row_tokens) {
    n_tokens += row_tokens;
    context_tokens += position + row_tokens;
    pairs += row_tokens * (position + (row_tokens + 1) / 2);
  }
};

// The cost of contexts, in microseconds. A plain value.
struct ContextCost {
  double context_token_us = 0;  // per token of context that a row reads
  double pair_us = 0;           // per pair of a query and a key
};

// Predicted microseconds of a step that does `work`. base_us is the part of work.n_tokens tokens
// without their contexts.
inline double StepMicroseconds(double base_us, const ContextCost& cost, const StepWork& work) {
  return base_us + cost.context_token_us * static_cast<double>(work.context_tokens) +
         cost.pair_us * static_cast<double>(work.pairs);
}

}  // namespace bora
