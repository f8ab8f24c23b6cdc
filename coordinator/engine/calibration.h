// The first steps of a new group: sequences that belong to no request and teach the cost model how
// long the workers' steps take, before requests depend on its predictions.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/scheduler/scheduler.h"
#include "coordinator/scheduler/step_cost_model.h"
#include "model/step/step.h"

namespace bora {

// Pure: no clock. A calibration consists of rounds; a round is a set of sequences that run together
// and end before the next round. The rounds have prompt chunks of growing length, decoding of one
// and of several sequences, and a context of several chunks. Owned by one thread.
class Calibration {
 public:
  // budget_us: microseconds. A round that is predicted to end later than that is left out.
  Calibration(const GroupLimits& limits, double budget_us);

  // Returns the sequences of the next round, with consecutive handles from first_handle on; an
  // empty vector if no round is left. elapsed_us: microseconds since the first round began. The
  // sequences share no KV blocks, and their tokens are in the vocabulary.
  std::vector<SequenceSpec> NextRound(const StepCostModel& model, double elapsed_us,
                                      uint64_t first_handle);

 private:
  struct Round {
    int32_t n_sequences;
    int32_t n_prompt;  // tokens of each sequence's prompt
    int32_t n_output;  // tokens that each sequence generates
  };

  const GroupLimits limits_;
  const double budget_us_;
  std::vector<Round> rounds_;
  size_t next_ = 0;  // index of the next round
};

}  // namespace bora
