// Continuous batching as a pure function of what happened: sequences come and go at any step, long
// prompts are cut into chunks, and every plan stays within the group's limits.
//
// A plan holds, in this order: one row for each sequence whose turn it is to decode; prompt chunks
// of running sequences; newly admitted sequences, as long as slots, the plan's tokens and KV blocks
// for whole prompts last. Priority classes, age and fair shares of tenants decide which sequence
// goes first. The rules are one unit each:
//
//   fair_queue.h           which waiting sequence is next
//   displacement.h         which running sequences give their slots to it
//   admission_control.h    whether blocks suffice to let it in
//   row_chooser.h          which rows a plan gets, and how long they are
//   step_plan_builder.h    how a plan is put together
//   step_in_flight.h       whether a result is an answer to its plan
//   wait_predictor.h       how long requests will wait
//   step_cost_model.h      how long a step takes
//   block_pool.h           which KV blocks are free, shared, or cached for their content
//   running_sequences.h    the slots and the sequences that have one
//   sequence.h             what is known of a sequence
//
// The scheduler owns the sequences and applies the rules to them: Scheduler::PlanStep is the order
// in which things happen.
//
// Preemption. If no block is left for a sequence, a held sequence, or else the newest running one,
// gives up its slot and blocks and goes back into the queue; later it passes its prompt and the
// tokens that it has generated again, as far as its blocks were given away meanwhile. A sequence
// that is not held is preempted only for an older one's blocks, and the oldest never gives up its
// slot, so the oldest always gets on and every sequence ends.
//
// Prefix cache. Every block is known by its tokens and all tokens before them as soon as a plan
// fills it; a sequence that begins with known blocks shares them and computes the rest, at least
// one token. Blocks outlive their sequences until others need the room.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "coordinator/scheduler/admission_control.h"
#include "coordinator/scheduler/block_pool.h"
#include "coordinator/scheduler/displacement.h"
#include "coordinator/scheduler/fair_queue.h"
#include "coordinator/scheduler/row_chooser.h"
#include "coordinator/scheduler/running_sequences.h"
#include "coordinator/scheduler/sequence.h"
#include "coordinator/scheduler/step_cost_model.h"
#include "coordinator/scheduler/step_in_flight.h"
#include "coordinator/scheduler/step_plan_builder.h"
#include "coordinator/scheduler/wait_predictor.h"
#include "model/step/step.h"

namespace bora {

struct SchedulerOptions {
  GroupLimits limits;
  int64_t epoch = 0;
  int32_t n_stages = 1;  // of the pipeline
  // Whether a plan may be made before the result of the plan that it follows is back.
  bool run_ahead = true;
  // Microseconds that a step with decode rows should take at most; 0: no limit.
  double step_time_budget_us = 0;
  // Weights > 0 of tenants by name. A tenant that is not named has weight 1.
  absl::flat_hash_map<std::string, double> tenant_weights;
};

// A sequence was given a slot.
struct Admission {
  uint64_t handle = 0;
  int32_t n_cached_tokens = 0;  // known tokens that it need not compute
  bool again = false;           // it had a slot before
};

// What a step brought to one sequence.
struct SequenceProgress {
  uint64_t handle = 0;
  std::vector<SampledToken> prompt_logprobs;  // in ascending position, each position reported once
  std::optional<SampledToken> sampled;
};

// Pure: no clock, I/O, thread or random device. Owned by the engine thread.
class Scheduler {
 public:
  // REQUIRES: limits that pass ValidateLimits, n_stages > 0.
  explicit Scheduler(const SchedulerOptions& options);

  // Sets the time, in microseconds on the clock of SequenceSpec::arrival_us. A time before the
  // current one is ignored.
  void AdvanceTo(int64_t now_us) { now_us_ = std::max(now_us_, now_us); }
  // Puts a sequence into the queue, and advances the time to its arrival. REQUIRES: the ranges that
  // SequenceSpec states, and that the group has blocks enough for prompt + max_tokens.
  void Add(SequenceSpec spec);
  // Ends a sequence in any state; its slot and blocks are free for the next plan. Results of its
  // rows that are still in flight are dropped. An unknown handle is ignored.
  void Remove(uint64_t handle);
  // A held sequence gets no rows. It keeps its slot and blocks unless another sequence needs them;
  // without a slot it keeps its age and gets no slot. An unknown handle is ignored.
  void SetHeld(uint64_t handle, bool held);

  // The next plan; nothing if enough plans are in flight or there is nothing to do. The plan counts
  // as in flight until CompleteStep. The cost grows with the rows of the plan and the running
  // sequences, not with the length of their contexts.
  std::optional<StepPlan> PlanStep();

  // Takes the result of the oldest plan in flight. INTERNAL says that the result does not fit the
  // plan: the group is broken, and this scheduler must not be used any longer.
  absl::StatusOr<std::vector<SequenceProgress>> CompleteStep(StepResult result);

  // Whether the sequence has a slot.
  bool IsRunning(uint64_t handle) const;
  // Whether the sequence was added and not removed.
  bool Contains(uint64_t handle) const { return sequences_.contains(handle); }

  // Sequences with a slot and without one.
  int32_t n_running() const { return running_.size(); }
  int32_t n_waiting() const { return static_cast<int32_t>(sequences_.size()) - n_running(); }
  // Known tokens of all waiting sequences. They pass through the model, or are found in the cache,
  // before the sequences generate their next tokens.
  int64_t n_waiting_prompt_tokens() const { return n_waiting_prompt_tokens_; }
  int32_t n_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  // Whether the workers have a plan for each stage: the next plan may wait until a stage is free.
  bool stages_full() const { return n_in_flight() >= options_.n_stages; }

  // Predictions by the cost model, in microseconds: 0 while nothing is known, and too early rather
  // than too late (coordinator/scheduler/wait_predictor.h).
  //
  // Time of one more prompt token beside the sequences that decode.
  double PromptTokenUs() const;
  // Time to the first token of a sequence submitted now. The prefix cache is consulted, which is
  // linear in the prompt, only if the estimate without it exceeds enough_us.
  double PredictFirstTokenUs(const SequenceSpec& spec, double enough_us) const;
  // Time to the next token of a waiting sequence if its prompt is begun now and a prompt token
  // takes prompt_token_us; 0 for any other handle. enough_us as above.
  double PredictPromptUs(uint64_t handle, double prompt_token_us, double enough_us) const;
  // Time until one of the waiting sequences runs; 0 if none waits.
  double PredictVacancyUs() const;
  // Time of the oldest plan in flight in its slowest stage; 0 if none is in flight.
  double oldest_plan_us() const;

  const BlockPool& blocks() const { return blocks_; }
  // Sequences admitted by the last call of PlanStep, in the order of the plan's SlotOpens.
  const std::vector<Admission>& newly_admitted() const { return newly_admitted_; }
  const StepCostModel& cost_model() const { return cost_model_; }
  // Takes over what was learnt of the same workers in an earlier epoch.
  void set_cost_model(StepCostModel model) { cost_model_ = std::move(model); }
  void ForgetPredictionErrors() { cost_model_.ForgetErrors(); }
  // Preemptions since construction, whatever their cause.
  int64_t n_preemptions() const { return n_preemptions_; }

 private:
  // The queue. A held sequence waits outside of it, and counts as waiting all the same.
  void JoinQueue(Sequence* sequence);
  void LeaveQueue(Sequence* sequence);
  // The sequence whose turn it is: the front of the queue, unless a pause is overdue. REQUIRES: the
  // queue is not empty.
  Sequence* NextInQueue() const;
  // The same if it could be admitted now, as far as is known without looking; otherwise null.
  const Sequence* NextToAdmit() const;

  // Steps of PlanStep, in this order.
  //
  // Preempts the running sequences that give way to the next one in the queue, if that helps it.
  void MakeRoomForNext(StepPlanBuilder* plan);
  // Grants blocks to the rows and adds them to the plan. Returns how many tokens it could add.
  int32_t PlanRows(std::vector<RowChoice> rows, StepPlanBuilder* plan);
  // Admits the next sequences in the queue, with a first row each, n_tokens_max tokens in all.
  void AdmitAndPlan(int32_t n_tokens_max, StepPlanBuilder* plan);
  // Makes known in the block pool which content the plan's rows give to blocks.
  void PublishBlocks(const StepPlanBuilder& plan);

  // Parts of these steps.
  //
  // Grants blocks to the rows, oldest sequence first, preempting others for them. A row becomes
  // shorter, or 0 tokens long, if no sequence gives way.
  void GrantBlocksTo(std::vector<RowChoice>* rows, StepPlanBuilder* plan);
  // Gives the sequence a slot and the cached blocks that it begins with, if it can be admitted.
  bool Admit(Sequence* sequence, StepPlanBuilder* plan);
  // Adds a row to the plan, and brings the sequence up to date with it.
  void PlanRow(Sequence* sequence, int32_t n_tokens, StepPlanBuilder* plan);
  void GrantBlocks(Sequence* sequence, int32_t n_blocks, StepPlanBuilder* plan);
  // Takes slot and blocks away and puts the sequence back into the queue.
  void Preempt(Sequence* sequence, StepPlanBuilder* plan);
  // Takes slot and blocks away. The slot is free here and remains to be closed on the workers.
  void GiveUpSlot(Sequence* sequence);

  // Moves what a result says of one row to *progress, which is empty, and brings the sequence up to
  // date. `sampled` is null unless the row samples.
  static void TakeRow(absl::Span<SampledToken> prompt_logprobs, SampledToken* sampled,
                      Sequence* sequence, SequenceProgress* progress);

  WaitSources wait_sources() const {
    return {running_, queue_, blocks_, cost_model_, row_chooser_};
  }

  // Constant after construction.
  const SchedulerOptions options_;

  // Sequences: every one is either in running_, or in queue_, or held without a slot.
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  RunningSequences running_;
  FairQueue queue_;
  int64_t n_waiting_prompt_tokens_ = 0;
  uint64_t next_order_ = 0;  // number of sequences added so far

  // Resources and what is learnt of the workers.
  BlockPool blocks_;
  StepCostModel cost_model_;

  // Rules with a memory of their own.
  Displacement displacement_;
  AdmissionControl admission_;
  RowChooser row_chooser_;
  WaitPredictor wait_predictor_;

  // Time and plans.
  int64_t now_us_ = std::numeric_limits<int64_t>::min();
  int64_t next_step_id_ = 0;
  std::deque<StepInFlight> in_flight_;     // oldest first
  std::vector<int32_t> to_close_;          // slots given up since the last plan
  std::vector<Admission> newly_admitted_;  // by the last PlanStep
  int64_t n_preemptions_ = 0;
};

}  // namespace bora
