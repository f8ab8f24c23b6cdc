// Continuous batching as a pure function of what happened: sequences come and go at any step, long
// prompts are cut into chunks, and every plan stays within the group's limits.
//
// Policy. A plan holds, first, one row for every sequence that is ready to decode (divided over the
// lanes so that a pipeline always has a micro-batch for each stage); then prompt chunks of admitted
// sequences, oldest first; then newly admitted ones, first come first served, as long as slots, KV
// blocks for prompt and completion, and the token budget last. A sequence's chunks may be in flight
// together: they pass through the stages in order. A sequence decodes its next token only when its
// last one is back.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "coordinator/block_manager.h"
#include "model/step.h"

namespace bora {

struct SchedulerOptions {
  GroupLimits limits;
  int64_t epoch = 0;
  // Plans that may be in flight: at least the number of pipeline stages keeps all of them busy.
  int32_t n_lanes = 1;
};

// What the scheduler must know of a request.
struct SequenceSpec {
  uint64_t handle = 0;                 // never used before
  std::vector<int32_t> prompt_tokens;  // at least 1; prompt + max_tokens <= limits.max_model_len
  SamplingParams sampling;
  int32_t max_tokens = 0;  // > 0
};

// What a step meant for one sequence.
struct SequenceProgress {
  uint64_t handle = 0;
  std::vector<SampledToken> prompt_logprobs;
  absl::optional<SampledToken> sampled;
};

// Pure: no clock, I/O, thread or random device. Owned by the engine thread.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // Puts a sequence at the end of the queue.
  void Add(SequenceSpec spec);
  // Ends a sequence in any state; its slot and blocks are free for the next plan. Results of steps
  // that are still in flight are dropped. Unknown handles are ignored.
  void Remove(uint64_t handle);
  // A held sequence keeps its slot and blocks and gets no more rows. One that has no slot yet still
  // gets one, and its first chunk with it. Unknown handles are ignored.
  void SetHeld(uint64_t handle, bool held);

  // The next plan, or nothing when all lanes are taken or there is nothing to do. The plan counts
  // as in flight until CompleteStep. Cost grows with the rows of the plan and the running
  // sequences, not with their length.
  absl::optional<StepPlan> PlanStep();

  // Takes the result of the oldest plan in flight. An error means that the result does not fit the
  // plan: the group is broken.
  absl::StatusOr<std::vector<SequenceProgress>> CompleteStep(StepResult result);

  // True once the sequence has been given a slot.
  bool IsRunning(uint64_t handle) const;
  // Of handles in the queue or running.
  bool Contains(uint64_t handle) const { return sequences_.contains(handle); }

  int32_t n_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t n_waiting() const { return n_waiting_; }
  int64_t n_waiting_prompt_tokens() const { return n_waiting_prompt_tokens_; }
  int32_t n_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  const BlockManager& blocks() const { return blocks_; }
  // Handles given a slot by the last plan.
  const std::vector<uint64_t>& newly_admitted() const { return newly_admitted_; }

 private:
  struct Sequence {
    SequenceSpec spec;
    int32_t slot = -1;
    int32_t n_planned = 0;   // tokens that have been in a plan
    int32_t n_known = 0;     // prompt and sampled tokens whose sampling is complete
    int32_t n_reserved = 0;  // blocks promised and not yet allocated
    bool held = false;
    std::vector<int32_t> block_ids;

    int32_t n_prompt() const { return static_cast<int32_t>(spec.prompt_tokens.size()); }
    bool InPrompt() const { return n_planned < n_prompt(); }
    bool ReadyToDecode() const { return !InPrompt() && !held && n_planned < n_known; }
  };

  // What a plan in flight asked of each row.
  struct RowInFlight {
    uint64_t handle;
    int32_t slot;
    int32_t position;
    int32_t n_tokens;
    bool sample;
    int32_t n_prompt_logprobs;
  };
  struct StepInFlight {
    int64_t step_id;
    std::vector<RowInFlight> rows;
  };

  void PlanDecodeRows(StepPlan* plan, StepInFlight* step);
  void PlanPromptRows(StepPlan* plan, StepInFlight* step);
  void AdmitAndPlan(StepPlan* plan, StepInFlight* step);
  // Adds the sequence's next prompt chunk of at most `budget` tokens; returns its size.
  int32_t PlanChunk(Sequence* sequence, int32_t budget, StepPlan* plan, StepInFlight* step);
  void GrantBlocks(Sequence* sequence, int32_t n_tokens, StepPlan* plan);
  // Whether the tokens of the result are, one by one, those that the plan asked for.
  static absl::Status CheckResult(const StepInFlight& step, const StepResult& result);
  bool Admit(Sequence* sequence, StepPlan* plan);

  SchedulerOptions options_;
  BlockManager blocks_;
  std::vector<int32_t> free_slots_;  // a stack, lowest id on top at first
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  // Names removed sequences too, which are skipped when met; never many more than there are others.
  std::deque<uint64_t> waiting_;
  std::vector<Sequence*> running_;  // in order of admission
  int32_t n_waiting_ = 0;
  int64_t n_waiting_prompt_tokens_ = 0;
  std::vector<int32_t> to_close_;  // slots
  std::deque<StepInFlight> in_flight_;
  std::vector<uint64_t> newly_admitted_;
  size_t next_decode_ =
      0;  // where in running_ the next plan's decode rows begin, so that lanes take turns
  int64_t next_step_id_ = 0;
};

}  // namespace bora
