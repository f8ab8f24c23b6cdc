// How long the simulated device takes for a step, and how a flag says it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "model/step/step.h"

namespace bora {

// A step of the whole model takes base_us + token_us * n_tokens + context_us * (the tokens of all
// its rows' sequences up to each row's last), whatever the tensor parallel size. Microseconds, each
// in [0, kMaxSimCostUs]. A plain value.
struct SimCost {
  double base_us = 2000;
  double token_us = 10;
  double context_us = 0.01;

  bool operator==(const SimCost&) const = default;
};

// One second: a step that takes longer than a few looks like a hung one.
inline constexpr int64_t kMaxSimCostUs = 1'000'000;

// Reads "key=value,..." with the keys that SimCost has; what is not named keeps its default, empty
// names nothing. INVALID_ARGUMENT names key, value and limit.
absl::StatusOr<SimCost> ParseSimCost(absl::string_view list);

// "base_us=2000, token_us=10, context_us=0.01".
std::string ToString(const SimCost& cost);

// The time of a step of the whole model; 0 without rows.
absl::Duration SimStepTime(const SimCost& cost, const StepPlan& plan);

}  // namespace bora
