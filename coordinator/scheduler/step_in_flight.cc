#include "coordinator/scheduler/step_in_flight.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bora {

absl::Status CheckStepResult(const StepInFlight& step, const StepResult& result,
                             int32_t vocab_size) {
  size_t n_samples = 0;
  size_t n_prompt_logprobs = 0;
  for (const RowInFlight& row : step.rows) {
    n_samples += row.sample ? 1 : 0;
    n_prompt_logprobs += row.n_prompt_logprobs;
  }
  if (result.sampled.size() != n_samples || result.prompt_logprobs.size() != n_prompt_logprobs) {
    return absl::InternalError(absl::StrCat(
        "result of step ", result.step_id, " has ", result.sampled.size(), " sampled tokens and ",
        result.prompt_logprobs.size(), " prompt log-probabilities, the plan asked for ", n_samples,
        " and ", n_prompt_logprobs));
  }
  const auto check = [&](const SampledToken& token, const RowInFlight& row, int32_t position,
                         int32_t n_top) {
    if (token.slot != row.slot || token.position != position) {
      return absl::InternalError(absl::StrCat(
          "result of step ", result.step_id, " has a token of slot ", token.slot, " at position ",
          token.position, " where the plan asked for slot ", row.slot, ", position ", position));
    }
    absl::Status status = CheckSampledToken(token, n_top, vocab_size);
    if (status.ok()) return status;  // almost always: no text is put together for it
    return Annotate(status, absl::StrCat("result of step ", result.step_id, ", slot ", token.slot,
                                         ", position ", position));
  };
  auto sampled = result.sampled.begin();
  auto prompt_logprob = result.prompt_logprobs.begin();
  for (const RowInFlight& row : step.rows) {
    for (int32_t i = 1; i <= row.n_prompt_logprobs; ++i) {
      RETURN_IF_ERROR(check(*prompt_logprob++, row, row.position + i, row.n_prompt_top));
    }
    if (row.sample) RETURN_IF_ERROR(check(*sampled++, row, row.position + row.n_tokens, row.n_top));
  }
  return absl::OkStatus();
}

absl::Status CheckSampledToken(const SampledToken& token, int32_t n_top, int32_t vocab_size) {
  const auto bad = [](const auto&... what) { return absl::InternalError(absl::StrCat(what...)); };
  const auto is_token = [vocab_size](int32_t id) { return id >= 0 && id < vocab_size; };
  // A row whose logits are not finite has no token.
  if (!is_token(token.token_id) && !(token.non_finite && token.token_id == -1)) {
    return bad("token ", token.token_id, " is not in [0, ", vocab_size, ")");
  }
  if (token.rank < 0 || token.rank > vocab_size) {
    return bad("rank ", token.rank, " is not in [0, ", vocab_size, "]");
  }
  if (static_cast<int64_t>(token.top.size()) > std::max(n_top, 0)) {
    return bad(token.top.size(), " alternatives, ", std::max(n_top, 0), " were asked for");
  }
  if (n_top >= 0 && !token.non_finite && std::isnan(token.logprob)) {
    return bad("a log-probability that is not a number");
  }
  for (const TokenLogprob& top : token.top) {
    if (!is_token(top.token_id)) {
      return bad("alternative ", top.token_id, " is not in [0, ", vocab_size, ")");
    }
    if (std::isnan(top.logprob)) return bad("a log-probability that is not a number");
  }
  return absl::OkStatus();
}

}  // namespace bora
