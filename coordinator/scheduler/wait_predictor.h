// How long requests will wait, by what the cost model has learnt. All predictions are microseconds,
// 0 while nothing is known, and too early rather than too late: they assume that no sequence runs
// out of blocks.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "coordinator/scheduler/block_pool.h"
#include "coordinator/scheduler/fair_queue.h"
#include "coordinator/scheduler/row_chooser.h"
#include "coordinator/scheduler/running_sequences.h"
#include "coordinator/scheduler/sequence.h"
#include "coordinator/scheduler/step_cost_model.h"

namespace bora {

// What the predictions are made from. Refers, owns nothing.
struct WaitSources {
  const RunningSequences& running;
  const FairQueue& queue;
  const BlockPool& blocks;
  const StepCostModel& cost_model;
  const RowChooser& row_chooser;
};

// Sequences without a slot.
struct WaitingCounts {
  int32_t n_sequences = 0;
  int64_t n_tokens = 0;  // to compute before each sequence's next token
};

// Pure. Owned by the engine thread. Holds no reference to its arguments.
class WaitPredictor {
 public:
  struct Options {
    int32_t n_stages = 1;
    int32_t n_plan_tokens_max = 0;
  };
  explicit WaitPredictor(const Options& options) : options_(options) {}

  // A sequence has ended after n_tokens > 0 generated tokens.
  void LearnCompletion(int32_t n_tokens);

  // Time that one more prompt token takes beside the sequences that decode.
  double PromptTokenUs(const WaitSources& sources) const;

  // Time until one of the waiting sequences runs; 0 if none waits.
  double SlotUs(const WaitingCounts& waiting, const WaitSources& sources) const;

  // Time to the first token of a sequence submitted now. The block pool is asked for the prompt's
  // prefix, which is linear in the prompt, only if the estimate without it exceeds enough_us.
  double FirstTokenUs(const SequenceSpec& spec, double enough_us, const WaitSources& sources) const;

  struct Prompt {
    const SequenceSpec& spec;
    absl::Span<const int32_t> tokens;  // known tokens, at least 1
    double prompt_token_us;            // time of one of them
  };
  // Time to the next token of a sequence whose prompt is begun now. The block pool is asked as in
  // FirstTokenUs.
  static double PromptUs(const Prompt& prompt, double enough_us, const BlockPool& blocks);

 private:
  // Mean predicted microseconds between two completions of running sequences; 0 while unknown.
  double CompletionIntervalUs(const WaitSources& sources) const;

  const Options options_;
  double mean_output_tokens_ = 0;  // moving average over completions; 0: none has ended yet
};

}  // namespace bora
