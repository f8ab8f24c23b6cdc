#include "worker/sim/sim_cost.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace bora {
namespace {

// The member of `cost` with the name `key`, or null if there is none.
double* Find(absl::string_view key, SimCost* cost) {
  if (key == "base_us") return &cost->base_us;
  if (key == "token_us") return &cost->token_us;
  if (key == "context_us") return &cost->context_us;
  return nullptr;
}

}  // namespace

absl::StatusOr<SimCost> ParseSimCost(absl::string_view list) {
  SimCost cost;
  if (list.empty()) return cost;
  std::vector<double*> given;
  for (const absl::string_view item : absl::StrSplit(list, ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(item, absl::MaxSplits('=', 1));
    const auto& [key, text] = pair;
    double* const value = Find(key, &cost);
    if (value == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", key, "' is none of base_us, token_us and context_us"));
    }
    if (std::find(given.begin(), given.end(), value) != given.end()) {
      return absl::InvalidArgumentError(absl::StrCat(key, " is given twice"));
    }
    given.push_back(value);
    // Written so that NaN, which SimpleAtod accepts, is refused: it compares false.
    if (!absl::SimpleAtod(text, value) ||
        !(*value >= 0 && *value <= static_cast<double>(kMaxSimCostUs))) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " is '", text, "', not a number in [0, ", kMaxSimCostUs, "]"));
    }
  }
  return cost;
}

std::string ToString(const SimCost& cost) {
  return absl::StrCat("base_us=", cost.base_us, ", token_us=", cost.token_us,
                      ", context_us=", cost.context_us);
}

absl::Duration SimStepTime(const SimCost& cost, const StepPlan& plan) {
  if (plan.rows.empty()) return absl::ZeroDuration();
  int64_t n_tokens = 0;
  int64_t n_context_tokens = 0;
  for (const StepRow& row : plan.rows) {
    n_tokens += row.n_tokens;
    n_context_tokens += row.position + row.n_tokens;
  }
  return absl::Microseconds(cost.base_us + cost.token_us * static_cast<double>(n_tokens) +
                            cost.context_us * static_cast<double>(n_context_tokens));
}

}  // namespace bora
