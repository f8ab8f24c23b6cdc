// One sequence: what its request asks for, and how far the scheduler has brought it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/int_math.h"
#include "coordinator/scheduler/block_pool.h"
#include "coordinator/scheduler/fair_queue.h"
#include "coordinator/scheduler/priority.h"
#include "coordinator/scheduler/shared_tokens.h"
#include "model/step/sampling_params.h"

namespace bora {

// What the scheduler must know of a request. A plain value.
struct SequenceSpec {
  uint64_t handle = 0;         // never used before in this scheduler
  SharedTokens prompt_tokens;  // at least 1; prompt + max_tokens <= limits.max_model_len
  SamplingParams sampling;
  int32_t max_tokens = 0;  // > 0
  // Whether the sequence may share blocks with others. A sequence that reports log-probabilities of
  // its prompt computes the whole prompt in any case, and others may share the blocks it fills.
  bool prefix_cache = true;
  std::string cache_salt;  // blocks are shared only between sequences of the same salt
  Priority priority = Priority::kStandard;
  std::string tenant;
  int64_t arrival_us = 0;       // on the clock of Scheduler::AdvanceTo
  bool is_calibration = false;  // no client asked for it: its length says nothing about requests
};

// One sequence, from Scheduler::Add to Scheduler::Remove. It waits while slot < 0 and runs while it
// has a slot. A plain value, owned by the scheduler; its units read and change it.
//
// A running sequence is in its prefill while n_planned < prefill_end; from then on it decodes, one
// token a row. n_planned runs ahead of the tokens that are known here by at most one, as a row may
// be planned before the token that it begins with has come back from the workers.
struct Sequence : Ticket {
  // Constant, except that spec.prompt_tokens is empty once own_tokens has the prompt.
  SequenceSpec spec;
  int32_t n_prompt = 0;  // tokens

  // Progress that outlives a slot.
  // The prompt and the tokens sampled so far. Empty until the first admission: until then the
  // sequence shares its prompt with the request's other sequences.
  std::vector<int32_t> own_tokens;
  int32_t n_prompt_logprobs = 0;  // prompt tokens whose log-probabilities were reported
  int32_t n_charged = 0;          // tokens that its tenant was charged for
  bool was_admitted = false;      // at least once
  bool held = false;              // by Scheduler::SetHeld: gets no rows, and no slot if it has none

  // Rows in plans whose results are not back. They may be of a slot that it has no longer.
  int32_t n_rows_in_flight = 0;
  int32_t n_samples_in_flight = 0;  // rows among n_rows_in_flight that sample
  int64_t last_step = -1;           // step id of the last plan with a row of it; -1: none yet

  // Valid while it has a slot.
  int32_t slot = -1;               // -1: it waits
  int32_t n_planned = 0;           // tokens that were cached at admission or have been in a plan
  int32_t prefill_end = 0;         // tokens known at admission: they pass like a prompt
  std::vector<int32_t> block_ids;  // in the order of its tokens
  int64_t slot_since_us = 0;       // when it was admitted
  int32_t n_published = 0;         // leading blocks whose content the pool knows
  BlockPool::ContentId content = BlockPool::kNoContent;  // of the first n_published blocks

  // Pauses in favour of other sequences of its class (coordinator/scheduler/displacement.h).
  int64_t paused_us = 0;         // pauses that have ended since it last ran for kShareUs
  int64_t paused_since_us = -1;  // beginning of the pause that lasts; -1: it does not pause
  int64_t pause_end_us = 0;      // when the pause that lasts has to end

  // The tokens known here: the prompt and what has been sampled.
  absl::Span<const int32_t> tokens() const {
    return own_tokens.empty() ? spec.prompt_tokens.span() : absl::MakeConstSpan(own_tokens);
  }
  int32_t n_known() const { return static_cast<int32_t>(tokens().size()); }
  int32_t n_blocks() const { return static_cast<int32_t>(block_ids.size()); }
  bool InPrefill() const { return n_planned < prefill_end; }
  // Tokens of the prefill that no plan has had yet; 0 while it decodes.
  int32_t n_prefill_left() const { return std::max(0, prefill_end - n_planned); }
  // Whether the row at n_planned would sample a token that the request asks for.
  bool WantsToken() const { return n_planned <= n_prompt + spec.max_tokens - 2; }
  // Whether log-probabilities of prompt tokens remain to be reported.
  bool WantsPromptLogprobs() const {
    return spec.sampling.n_prompt_logprobs >= 0 && n_prompt_logprobs < n_prompt - 1;
  }
  // Blocks of block_size tokens beyond its own that its next n_tokens tokens take.
  int32_t BlocksNeeded(int32_t n_tokens, int32_t block_size) const {
    const int64_t n_blocks_total = CeilDiv(int64_t{n_planned} + n_tokens, block_size);
    return static_cast<int32_t>(std::max<int64_t>(0, n_blocks_total - n_blocks()));
  }
};

}  // namespace bora
