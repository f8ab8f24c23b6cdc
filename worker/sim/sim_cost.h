// The cost model of the simulated device: how long a step takes. --device=sim:... states it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "model/step/step.h"

namespace bora {

// A step of the whole model takes base_us + token_us * n_tokens + context_us * n_context_tokens,
// whatever the tensor parallel size. n_context_tokens is the sum over the rows of the sequence's
// length up to the row's last token, roughly what attention reads. Microseconds, each in
// [0, kMaxSimCostUs]. A plain value.
struct SimCost {
  double base_us = 2000;     // for each step
  double token_us = 10;      // for each token in it
  double context_us = 0.01;  // for each token of context

  bool operator==(const SimCost&) const = default;
};

// The largest value of each cost, one second: a step that takes more than a few seconds would look
// like a hung one.
inline constexpr int64_t kMaxSimCostUs = 1'000'000;

// Parses "key=value,..."; the keys are the members of SimCost. Keys that are not given keep their
// defaults; `list` may be empty. INVALID_ARGUMENT names the key that is unknown, given twice, or
// has a value out of range, and says what is allowed.
absl::StatusOr<SimCost> ParseSimCost(absl::string_view list);

// For logs: "base_us=2000, token_us=10, context_us=0.01".
std::string ToString(const SimCost& cost);

// The time that `plan` takes on the whole model, all stages together; 0 if it has no rows.
absl::Duration SimStepTime(const SimCost& cost, const StepPlan& plan);

}  // namespace bora
