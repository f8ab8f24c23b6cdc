// Puts one StepPlan together, and what the scheduler must remember of it until its result is back.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "coordinator/scheduler/sequence.h"
#include "coordinator/scheduler/step_in_flight.h"
#include "model/step/step.h"
#include "model/step/step_cost.h"

namespace bora {

// Pure. Owned by the engine thread. Reads sequences and changes none.
class StepPlanBuilder {
 public:
  // The slots to_close were given up since the last plan. Slots are closed first in a plan, so they
  // are free for the plan's own admissions.
  StepPlanBuilder(int64_t epoch, int64_t step_id, std::vector<int32_t> to_close);

  void CloseSlot(int32_t slot) { plan_.closed.push_back(slot); }
  // Opens the slot of a sequence that was just admitted, with its cached blocks. REQUIRES:
  // sequence.n_planned is the number of cached tokens, prefill_end that of known tokens.
  void OpenSlot(const Sequence& sequence);
  // Grants the sequence a block, which its block_ids does not have yet.
  void GrantBlock(const Sequence& sequence, int32_t block_id);
  // Adds a row for the sequence's next n_tokens > 0 tokens, from n_planned on. Returns whether the
  // row samples. REQUIRES: the plan has no row of the sequence; n_tokens is 1 unless it is in its
  // prefill, and no more than what is left of the prefill.
  bool AddRow(const Sequence& sequence, int32_t n_tokens);

  // Whether a slot may be opened for the sequence: the known tokens of all opened slots with
  // penalties must fit a message.
  bool HasRoomToOpen(const Sequence& sequence) const;
  bool has_rows() const { return !plan_.rows.empty(); }
  bool has_prompt_chunk() const { return !plan_.tokens.empty(); }
  const StepWork& work() const { return step_.work; }
  // In the plan's order.
  const std::vector<RowInFlight>& rows() const { return step_.rows; }

  // What was built; the builder must not be used for anything else afterwards.
  StepPlan TakePlan() { return std::move(plan_); }
  StepInFlight TakeStepInFlight(double predicted_us);
  // The slots to close of a plan that is not used.
  std::vector<int32_t> TakeClosedSlots() { return std::move(plan_.closed); }

 private:
  // StepPlan::next_tokens of a row, once any row reports log-probabilities of the prompt.
  void AddNextToken(const Sequence& sequence, const StepRow& row);

  StepPlan plan_;
  StepInFlight step_;
};

}  // namespace bora
