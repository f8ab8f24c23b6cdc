// Continuous batching as a pure function of what happened: sequences come and go at any step, long
// prompts are cut into chunks, and every plan stays within the group's limits.
//
// Policy. A plan holds, first, one row for every sequence that is ready to decode; then prompt
// chunks of admitted sequences; then newly admitted ones, as long as slots, token budget, and KV
// blocks for the whole prompt last. Who goes first among these is a matter of priority classes and
// of fair shares of tenants (coordinator/scheduler/fair_queue.h). Age means arrival, later by a
// handicap for lower classes.
//
// Fair shares. A sequence that is next in the queue and finds no slot or blocks takes them from the
// newest sequence of a lower class, or of a tenant that has more than its share while its own has
// less. Nor does it wait until a long prompt is through: that leaves it half of a plan.
//
// Pauses. A sequence that gave its slot to another tenant pauses for kMaxPauseUs in all; then it is
// next in the queue before all others of its class, and takes a slot itself: of its own tenant's
// newest sequence, or else of another's. From then on it gives its slot to nobody of its class
// until it has run for kShareUs. At most one sixth as many pause as there are slots, which is the
// part of the time that each may: so all of them can come back in time.
//
// Pipelines. The sequences that decode are divided into as many micro-batches as there are stages,
// of the same predicted time, and those that were planned least recently come first: so every stage
// has one to work on. A sequence's prompt chunks may be in flight together, as they pass through
// the stages in order; while nobody decodes they are as long as lets the stages overlap best.
//
// Run-ahead. A plan may be made before the result of the one that it follows is back: its rows go
// on from tokens that only the workers know. A sequence has one such row at most, and one plan more
// than there are stages is in flight, so that no stage waits for the coordinator. Who turns out to
// have ended has one token more computed, which is dropped.
//
// Step time. While anybody decodes, prompts get only what fits the step's time budget beside the
// decode rows, by a cost model that learns from every result; kMinChunk tokens at least, so that
// they get on where decoding alone takes as long. A step is as long as its way through all stages.
// max_num_batched_tokens bounds a plan in any case.
//
// Prefix cache. Every block is known by its tokens and those before them as soon as a plan fills
// it; a sequence that begins with known blocks shares them and computes the rest, one token at
// least. Blocks outlive their sequences until others need the room
// (coordinator/scheduler/block_pool.h).
//
// Preemption. Blocks for the completion are not set aside at first: most completions end before
// max_tokens. When none is left for a sequence, the
// newest running one gives up its slot and blocks and goes back into the queue; later it passes its
// prompt and what it has generated again, as far as its blocks were given away. Only a held
// sequence or a newer one is preempted for another's blocks, and nobody takes the oldest one's
// slot, so the oldest always gets on and all end. Each preemption makes admission leave room for a
// larger part of what those who run may still generate; without preemptions it forgets that again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "coordinator/scheduler/block_pool.h"
#include "coordinator/scheduler/fair_queue.h"
#include "coordinator/scheduler/shared_tokens.h"
#include "coordinator/scheduler/step_cost_model.h"
#include "model/step/step.h"

namespace bora {

inline constexpr int64_t kMaxPauseUs = 2'000'000;
inline constexpr int64_t kShareUs = 5 * kMaxPauseUs;

struct SchedulerOptions {
  GroupLimits limits;
  int64_t epoch = 0;
  int32_t n_stages = 1;  // of the pipeline
  bool run_ahead = true;
  // Microseconds that a step with decode rows should take at most; 0: no limit.
  double step_time_budget_us = 0;
  // > 0, by name; tenants that are not named have 1.
  absl::flat_hash_map<std::string, double> tenant_weights;
};

// What the scheduler must know of a request.
struct SequenceSpec {
  uint64_t handle = 0;         // never used before
  SharedTokens prompt_tokens;  // at least 1; prompt + max_tokens <= limits.max_model_len
  SamplingParams sampling;
  int32_t max_tokens = 0;  // > 0
  // Whether it may share blocks with others. Sequences that report prompt log-probabilities
  // compute their whole prompt, but others may share theirs.
  bool prefix_cache = true;
  std::string cache_salt;  // shares only with sequences of the same salt
  Priority priority = Priority::kStandard;
  std::string tenant;
  int64_t arrival_us = 0;       // on any clock, the same for all
  bool is_calibration = false;  // nobody's: it says nothing of how long completions are
};

// A sequence that was given a slot.
struct Admission {
  uint64_t handle = 0;
  int32_t n_cached_tokens = 0;  // that it need not compute
  bool again = false;           // after a preemption
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

  // What time it is, on the clock of SequenceSpec::arrival_us; earlier than before means nothing.
  void AdvanceTo(int64_t now_us) { now_us_ = std::max(now_us_, now_us); }
  // Puts a sequence at the end of the queue, and the clock at its arrival.
  void Add(SequenceSpec spec);
  // Ends a sequence in any state; its slot and blocks are free for the next plan. Results of steps
  // that are still in flight are dropped. Unknown handles are ignored.
  void Remove(uint64_t handle);
  // A held sequence gets no more rows. It keeps its slot and blocks unless another needs them;
  // without a slot it keeps its place in the queue and gets none. Unknown handles are ignored.
  void SetHeld(uint64_t handle, bool held);

  // The next plan, or nothing when enough are in flight or there is nothing to do. The plan counts
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
  int32_t n_waiting() const { return static_cast<int32_t>(sequences_.size()) - n_running(); }
  // Tokens that those who wait must pass through the model before they generate the next.
  int64_t n_waiting_prompt_tokens() const { return n_waiting_prompt_tokens_; }
  int32_t n_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  // Whether the workers have a plan for each stage: the next one may wait until a stage is free.
  bool stages_full() const { return n_in_flight() >= options_.n_stages; }
  // What follows is by the cost model, in microseconds: 0 while nothing is known, and too early
  // rather than too late: nobody is taken to run out of blocks.
  //
  // What one more prompt token takes beside those who decode.
  double PromptTokenUs() const;
  // Until a sequence that came now would have its first token; exact when that is above enough_us:
  // looking for its prefix takes as long as it is.
  double PredictFirstTokenUs(const SequenceSpec& spec, double enough_us) const;
  // The same for a waiting sequence whose prompt is begun now; 0 for others.
  double PredictPromptUs(uint64_t handle, double prompt_token_us, double enough_us) const;
  // Until one of those who wait runs; 0 when nobody waits.
  double PredictPlaceUs() const;
  // Predicted time of the oldest plan in flight in its slowest stage, microseconds; 0 for none.
  double oldest_plan_us() const;
  const BlockPool& blocks() const { return blocks_; }
  // By the last plan, in order of its SlotOpens.
  const std::vector<Admission>& newly_admitted() const { return newly_admitted_; }
  const StepCostModel& cost_model() const { return cost_model_; }
  // What was learnt of the same workers in an earlier epoch.
  void set_cost_model(StepCostModel model) { cost_model_ = std::move(model); }
  void ForgetPredictionErrors() { cost_model_.ForgetErrors(); }
  // Since construction.
  int64_t n_preemptions() const { return n_preemptions_; }

 private:
  struct Sequence : Ticket {
    SequenceSpec spec;
    // The prompt and what has been sampled. Empty until it is admitted for the first time: those
    // that wait share their prompts.
    std::vector<int32_t> own_tokens;
    int32_t n_prompt = 0;
    int32_t n_prompt_logprobs = 0;  // reported
    int32_t n_charged = 0;          // tokens that its tenant was charged
    int32_t n_rows_in_flight = 0;
    int32_t n_samples_in_flight = 0;  // of those, rows that sample
    int64_t last_step = -1;           // that had a row of it
    bool held = false;
    bool was_admitted = false;
    // While it has a slot.
    int32_t slot = -1;
    int32_t n_planned = 0;    // tokens that are cached or have been in a plan
    int32_t prefill_end = 0;  // tokens known at admission: they pass as they are
    std::vector<int32_t> block_ids;
    int64_t slot_since_us = 0;
    // Pauses for the sake of other tenants.
    int64_t paused_us = 0;         // those that have ended since it last had its share
    int64_t paused_since_us = -1;  // the one under way; -1: none
    int64_t pause_end_us = 0;      // when that has to end
    int32_t n_published = 0;       // blocks that are known in the pool, or others in their place
    BlockPool::ContentId content = BlockPool::kNoContent;  // of those

    absl::Span<const int32_t> tokens() const {
      return own_tokens.empty() ? spec.prompt_tokens.span() : absl::MakeConstSpan(own_tokens);
    }
    int32_t n_known() const { return static_cast<int32_t>(tokens().size()); }
    bool InPrefill() const { return n_planned < prefill_end; }
    // Whether the row at n_planned would sample a token that was asked for.
    bool WantsToken() const { return n_planned <= n_prompt + spec.max_tokens - 2; }
    bool WantsPromptLogprobs() const {
      return spec.sampling.n_prompt_logprobs >= 0 && n_prompt_logprobs < n_prompt - 1;
    }
  };
  // A row that a plan may get.
  struct Candidate {
    Sequence* sequence;
    int32_t n_tokens;
  };

  // What a plan in flight asked of each row.
  struct RowInFlight {
    uint64_t handle;
    int32_t slot;
    int32_t position;
    int32_t n_tokens;
    bool sample;
    int32_t n_prompt_logprobs;
    // Alternatives of each token that were asked for; -1: not even its log-probability.
    int32_t n_top;
    int32_t n_prompt_top;
  };
  struct StepInFlight {
    int64_t step_id;
    std::vector<RowInFlight> rows;
    StepWork work;
    double predicted_us = 0;
  };

  // Appends a row for each sequence whose turn it is to decode; with `any_distance` also for those
  // whose last token will not be through the stages by then.
  void ChooseDecodeRows(bool any_distance, std::vector<Candidate>* rows);
  // Preempts those whose slots and blocks the next in the queue is entitled to.
  void MakeRoomForNext(StepPlan* plan);
  // Whether `next` may have the place of one that runs, when n_taken of its tenant's are taken.
  bool MayDisplace(const Sequence& next, const Sequence& running, int32_t n_taken) const;
  // Running sequences that give way to `next`, in this order.
  std::vector<Sequence*> GiversFor(const Sequence& next) const;
  // The same for a `next` whose pause is over.
  std::vector<Sequence*> GiversForPaused(const Sequence& next) const;
  // Whose turn it is: the queue's front, unless a pause is over. The queue is not empty.
  Sequence* NextInQueue() const;
  // Of those that pause and must not any longer the first; null for none.
  Sequence* FirstOverdue() const;
  // How long a running sequence may pause for other tenants now.
  int64_t PauseLeftUs(const Sequence& running) const;
  // How many may pause beside those that do.
  int32_t PausesLeft() const;
  void BeginPause(Sequence* sequence);
  void EndPause(Sequence* sequence);
  // Running sequences in their prompts that may go on, who goes first in front.
  std::vector<Sequence*> InPrefillByTurn() const;
  // Appends prompt chunks of admitted sequences, so that the rows have `budget` tokens at most.
  void ChooseChunks(int32_t budget, std::vector<Candidate>* rows);
  // Whether the token that the sequence goes on from is known, or will be in the first stage when
  // the plan gets there.
  bool IsThrough(const Sequence& sequence, bool any_distance) const;
  // Tokens of the next plan: in a pipeline fewer than may be, where stages would wait for a long
  // plan to come through.
  int32_t PlanTokensMax();
  // How many of n_max prompt tokens from `position` on a plan takes that does `work` already: 0
  // only if it has a prompt chunk.
  int32_t FitTokens(StepWork work, int32_t position, int32_t n_max, bool has_chunk) const;
  // Grants blocks to the rows, oldest sequence first, and preempts newer sequences for them. Rows
  // become shorter, or 0 tokens long, where there is nobody to preempt.
  void Provide(std::vector<Candidate>* rows, StepPlan* plan);
  // Returns how many tokens the rows have that it could plan.
  int32_t ProvideAndPlan(std::vector<Candidate>* rows, StepPlan* plan, StepInFlight* step);
  void Preempt(Sequence* sequence, StepPlan* plan);
  // Who gives way to the sequence: one that is held, or else is newer. Null: nobody.
  Sequence* VictimFor(const Sequence& sequence) const;
  // Whether there is room for the sequence's next token, or somebody who gives way.
  bool CanGrow(const Sequence& sequence) const;
  void AdmitAndPlan(int32_t budget, StepPlan* plan, StepInFlight* step);
  // What a sequence takes that is admitted now.
  struct Needs {
    BlockPool::Match match;  // what of it is cached
    int32_t n_taken = 0;     // blocks of those that are available
  };
  Needs FindNeeds(const Sequence& sequence) const;
  void RememberBlocked(const Sequence& sequence, int32_t n_needs);
  // As far as is remembered.
  bool IsBlocked(const Sequence& sequence) const;
  // A preemption for want of blocks: fewer are admitted.
  void ExpectGrowth();
  // Whether a plan can carry so many more tokens for penalties.
  static bool HasRoomForKnownTokens(const StepPlan& plan, int32_t n_known);
  // Gives the sequence a slot and the cached blocks that it begins with.
  bool Admit(Sequence* sequence, StepPlan* plan);
  // Blocks to leave for running sequences: for the rest of their prompts, and for a part of their
  // completions, one at least.
  int32_t BlocksDue() const;
  // The part of the sequence's completion that admission leaves room for, once it has n_blocks.
  int32_t GrowthExpected(const Sequence& sequence, int64_t n_blocks) const;
  // Blocks beyond the sequence's own that n_tokens more tokens take.
  int32_t BlocksNeeded(const Sequence& sequence, int32_t n_tokens) const;
  void GrantBlocks(Sequence* sequence, int32_t n_blocks, StepPlan* plan);
  void PlanRow(Sequence* sequence, int32_t n_tokens, StepPlan* plan, StepInFlight* step);
  void AddNextTokens(const StepInFlight& step, StepPlan* plan) const;
  // Makes the blocks known that the sequence's rows so far fill.
  void Publish(Sequence* sequence);
  // Takes slot and blocks away; the slot remains to be closed.
  void GiveUpSlot(Sequence* sequence);
  void Charge(Sequence* sequence);
  double PromptUs(const SequenceSpec& spec, absl::Span<const int32_t> tokens,
                  double prompt_token_us, double enough_us) const;
  // Between the ends of those who run.
  double FinishUs() const;
  void JoinQueue(Sequence* sequence);
  void LeaveQueue(Sequence* sequence);
  // Whether the tokens of the result are, one by one, those that the plan asked for.
  absl::Status CheckResult(const StepInFlight& step, const StepResult& result) const;

  SchedulerOptions options_;
  BlockPool blocks_;
  StepCostModel cost_model_;
  int32_t n_decoding_ = 0;  // sequences that decode and are not held, as of the plan being made
  std::vector<int32_t> free_slots_;  // a stack, lowest id on top at first
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  FairQueue queue_;                // not of those that are held
  std::vector<Sequence*> paused_;  // for the sake of other tenants; all in the queue
  int64_t now_us_ = std::numeric_limits<int64_t>::min();
  std::vector<Sequence*> running_;   // by age
  std::vector<Sequence*> decoding_;  // those of them behind their prompts, by last_step
  uint64_t next_order_ = 0;
  // The sequence that was last refused a slot for want of blocks, how many it needed then, and for
  // how many plans that is believed: looking for its prefix again takes as long as it is.
  absl::optional<uint64_t> blocked_handle_;
  int32_t n_blocked_needs_ = 0;
  int32_t n_blocked_plans_ = 0;
  int64_t n_waiting_prompt_tokens_ = 0;
  int64_t n_preemptions_ = 0;
  double mean_output_tokens_ = 0;  // of those that have ended, the last ones above all; 0: none
  double growth_ratio_ = 0;        // of what completions may still take that is expected, [0, 1]
  std::vector<int32_t> to_close_;  // slots
  std::deque<StepInFlight> in_flight_;
  std::vector<Admission> newly_admitted_;
  // What the last micro-batch had less than its share.
  double decode_credit_ = 0;
  int32_t prompt_share_ = 0;  // prompt tokens of each micro-batch in this round
  int64_t next_step_id_ = 0;
};

}  // namespace bora
