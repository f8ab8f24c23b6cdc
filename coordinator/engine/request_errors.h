// Errors that the engine finds in requests or answers them with.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "coordinator/api/api_error.h"

namespace bora {

// UNAVAILABLE with this reason; a retry is worthwhile after a second.
ApiError Unavailable(const char* reason, std::string message);

// UNAVAILABLE with WORKER_LOST. detail: what was lost, for people.
ApiError WorkersLost(const std::string& detail);

// DEADLINE_EXCEEDED: the call's deadline has passed, in the queue unless the request is running.
ApiError DeadlinePassed(bool running, int32_t n_output_tokens);

// DEADLINE_EXCEEDED with DEADLINE_IN_QUEUE: the first token is predicted to come after `wait_us`
// microseconds, and the deadline is in `left`.
ApiError DeadlineTooNear(absl::Duration left, double wait_us);

// INTERNAL with NON_FINITE_LOGITS after so many tokens of the request.
ApiError NonFiniteLogits(int32_t n_output_tokens);

}  // namespace bora
