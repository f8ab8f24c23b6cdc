// Requests and two ways to run them on a LocalGroup: one after the other in the plainest plans, or
// all together in plans drawn at random. Promise: both give the same bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/step/step.h"
#include "tests/worker/local_group.h"

namespace bora {

struct WorkRequest {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int32_t n_generate = 0;  // > 0
};

// Slots are set to 0: which slot served a request is no part of its outcome.
struct WorkOutcome {
  std::vector<SampledToken> prompt_logprobs;
  std::vector<SampledToken> sampled;

  std::vector<int32_t> token_ids() const;
  bool operator==(const WorkOutcome&) const = default;
};

// Prompts of 1 to 100 tokens, 1 to 12 tokens generated, greedy and random sampling of every kind.
std::vector<WorkRequest> RandomRequests(const GroupLimits& limits, int n_requests, uint64_t seed);

// Begins an epoch and runs the requests one by one, the prompt in as few chunks as fit, tokens
// passed explicitly, one plan in flight.
absl::StatusOr<std::vector<WorkOutcome>> RunAlone(LocalGroup& group,
                                                  absl::Span<const WorkRequest> requests);

// Begins an epoch and runs the requests together: slots, chunks, batches, whether a row uses the
// last sampled token, which sequences are preempted and replayed, and up to `max_in_flight` plans
// in flight are all drawn from `seed`.
absl::StatusOr<std::vector<WorkOutcome>> RunShuffled(LocalGroup& group,
                                                     absl::Span<const WorkRequest> requests,
                                                     int max_in_flight, uint64_t seed);

}  // namespace bora
