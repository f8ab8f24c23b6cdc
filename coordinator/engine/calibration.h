// The first steps of a group, on nobody's behalf: they teach the cost model what the workers take,
// before there are requests that it must be right for.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/scheduler/scheduler.h"
#include "coordinator/scheduler/step_cost_model.h"
#include "model/step/step.h"

namespace bora {

// Pure: no clock. Rounds of sequences: chunks of growing length, decoding alone and with others, a
// context of several chunks.
class Calibration {
 public:
  // No round begins that is predicted to end after budget_us.
  Calibration(const GroupLimits& limits, double budget_us);

  // The sequences of the next round, with handles from first_handle on; none when enough is known.
  // They share no blocks, and tokens are within the vocabulary.
  std::vector<SequenceSpec> NextRound(const StepCostModel& model, double elapsed_us,
                                      uint64_t first_handle);

 private:
  struct Round {
    int32_t n_sequences;
    int32_t n_prompt;
    int32_t n_output;
  };

  const GroupLimits limits_;
  const double budget_us_;
  std::vector<Round> rounds_;
  size_t next_ = 0;
};

}  // namespace bora
