// What a worker may say of a token that a plan asked for.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "model/step/step.h"

namespace bora {

// n_top: alternatives that were asked for; -1: not even the token's log-probability was. INTERNAL
// names the value that no honest worker can have: a token, alternative or rank of no vocabulary,
// more alternatives than were asked for, a log-probability that is not a number. Time is linear in
// n_top.
absl::Status CheckSampledToken(const SampledToken& token, int32_t n_top, int32_t vocab_size);

}  // namespace bora
