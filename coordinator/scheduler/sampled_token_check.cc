#include "coordinator/scheduler/sampled_token_check.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace bora {

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
