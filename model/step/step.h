// One iteration of the service as plain data: the coordinator emits a StepPlan, every rank of a
// group obeys it, the last stage's tensor rank 0 answers with a StepResult. Protobuf appears only
// where a plan crosses a process boundary (proto/bora/worker).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/step/sampling_params.h"

namespace bora {

// What a group of ranks was told when its epoch began; bounds everything a plan may say. A sampled
// token needs a position too, so a row that ends at max_model_len cannot sample.
struct GroupLimits {
  int32_t max_num_seqs = 0;            // slots: ids [0, max_num_seqs)
  int32_t max_num_batched_tokens = 0;  // tokens of one plan
  int32_t max_model_len = 0;           // tokens of one sequence: positions [0, max_model_len)
  int32_t block_size = 16;             // tokens in one KV block
  int32_t n_blocks = 0;                // KV blocks: ids [0, n_blocks)
  // Token ids that exist: [0, vocab_size). The model's matrices may have more rows, as padding: the
  // sampler looks at no logit beyond.
  int32_t vocab_size = 0;

  bool operator==(const GroupLimits&) const = default;
};

// A sequence begins to live on the workers.
struct SlotOpen {
  int32_t slot = 0;
  // Prompt tokens; the first generated token has this position. > 0
  int32_t n_prompt_tokens = 0;
  // Tokens generated before this slot was opened (a sequence that is replayed after a failure or a
  // preemption passes them as rows like a prompt): they count for min_tokens.
  int32_t n_generated_tokens = 0;
  // Tokens whose keys and values are in the cache already: a multiple of block_size. The slot's
  // first blocks, which hold them, are shared and only read; its first row begins behind them.
  int32_t n_cached_tokens = 0;
  SamplingParams sampling;
  // With penalties, which count tokens: those of the prompt, then the n_generated_tokens. Without,
  // empty.
  std::vector<int32_t> known_tokens;

  bool operator==(const SlotOpen&) const = default;
};

// Appends one KV block to a slot's table: the blocks of a slot are granted in ascending order
// without gaps. Blocks of a slot's cached tokens may be in other slots' tables too and must have
// been filled since they were last granted for writing; all others must be in no table.
struct BlockGrant {
  int32_t slot = 0;
  int32_t block_idx = 0;  // position in the slot's table: tokens [block_idx*16, block_idx*16+16)
  int32_t block_id = 0;   // index into the KV pool

  bool operator==(const BlockGrant&) const = default;
};

// A contiguous run of one slot's tokens that passes through the model in this step. A slot has at
// most one row in a plan; rows of a slot follow each other without gaps over its plans.
struct StepRow {
  int32_t slot = 0;
  int32_t position = 0;  // absolute position of the first token of the row
  int32_t n_tokens = 0;  // > 0; 1 when use_last_sampled
  // First of the row's tokens in StepPlan::tokens; rows use the list in order. Unused when
  // use_last_sampled.
  int32_t token_begin = 0;
  // The row's one token is the one this slot sampled last: it travels from the last stage to the
  // first without the coordinator, so the plan may be issued before the coordinator has seen it.
  bool use_last_sampled = false;
  // Sample a token after the last token of the row.
  bool sample = false;
  // Report log-probabilities of the prompt tokens at positions [position+1, position+n_tokens] that
  // exist.
  bool prompt_logprobs = false;

  bool operator==(const StepRow&) const = default;
};

struct StepPlan {
  int64_t epoch = 0;
  int64_t step_id = 0;  // 0, 1, 2, ... within an epoch, without gaps
  // Applied in this order, before the rows: closed, opened, grants.
  std::vector<int32_t> closed;  // slots
  std::vector<SlotOpen> opened;
  std::vector<BlockGrant> grants;
  std::vector<StepRow> rows;
  std::vector<int32_t> tokens;
  // With prompt_logprobs, the target of the row's last token (the token at position+n_tokens) is
  // not in the row: row i's is here, or -1 when it is not known or not wanted. Empty when no row
  // has prompt_logprobs.
  std::vector<int32_t> next_tokens;

  bool operator==(const StepPlan&) const = default;
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;

  bool operator==(const TokenLogprob&) const = default;
};

// One token with its log-probability, its rank among all tokens (1 = most probable) and the most
// probable alternatives, best first.
struct SampledToken {
  int32_t slot = 0;
  int32_t position = 0;  // of this token
  int32_t token_id = -1;
  float logprob = 0;  // valid when the slot's n_logprobs >= 0 (prompt: n_prompt_logprobs >= 0)
  int32_t rank = 0;
  std::vector<TokenLogprob> top;
  // The logits of this row were not finite: no token was drawn, token_id is -1, and the request
  // must fail.
  bool non_finite = false;

  bool operator==(const SampledToken&) const = default;
};

struct StepResult {
  int64_t epoch = 0;
  int64_t step_id = 0;
  std::vector<SampledToken> sampled;          // one for each row with sample, in row order
  std::vector<SampledToken> prompt_logprobs;  // in row order, then ascending position
  // Microseconds that each stage's tensor rank 0 computed, without waiting for other stages or for
  // sampled tokens; all 0 without tokens. [pp_size]
  std::vector<int64_t> stage_us;

  bool operator==(const StepResult&) const = default;
};

// Caps on what an epoch may ask for, so that a rank can size its step inputs without overflow; far
// above any sensible deployment.
inline constexpr int32_t kMaxNumSeqs = 1 << 16;
inline constexpr int32_t kMaxNumBatchedTokens = 1 << 20;
inline constexpr int32_t kMaxModelLen = 1 << 24;
inline constexpr int32_t kMaxBlockSize = 512;  // attention works in splits of 512 tokens

// INVALID_ARGUMENT names the limit that is out of range. block_size must be a power of two
// from 2 on.
absl::Status ValidateLimits(const GroupLimits& limits);

// Everything about a plan that can be checked without knowing the slots' state: ids in range, no
// duplicates, token ids in the vocabulary, sums within the limits, sampling parameters within
// theirs. The sender asserts it, the receiver returns it. Errors name the field, the value and the
// limit.
absl::Status ValidatePlan(const StepPlan& plan, const GroupLimits& limits);

// The state of the slots that plans refer to, as both sides know it; catches what ValidatePlan
// cannot: rows that leave gaps, blocks that are missing, granted for writing while another slot has
// them or shared before they are full, slots opened twice or used when closed, a last sampled token
// that does not exist. Owned by one thread.
class SlotTracker {
 public:
  // `limits` must have passed ValidateLimits (CHECK).
  explicit SlotTracker(const GroupLimits& limits);

  // Checks the plan with ValidatePlan, then applies it, or returns INVALID_ARGUMENT with what is
  // wrong with it; after an error the tracker must not be used again. step_id must be the number of
  // plans applied before.
  absl::Status Apply(const StepPlan& plan);

  // The block table of an open slot (CHECK); valid until the next Apply.
  absl::Span<const int32_t> block_ids(int32_t slot) const;
  int32_t n_prompt_tokens(int32_t slot) const;

 private:
  struct Slot {
    bool open = false;
    int32_t n_tokens = 0;  // tokens that have passed through the model, cached ones included
    int32_t n_cached_tokens = 0;
    int32_t n_prompt_tokens = 0;
    bool wants_prompt_logprobs = false;
    bool has_sampled = false;  // by its latest row: the token has position n_tokens
    std::vector<int32_t> block_ids;
  };

  absl::Status Close(int32_t slot);
  absl::Status Open(const SlotOpen& open);
  absl::Status Grant(const BlockGrant& grant);
  absl::Status ApplyRow(const StepRow& row);

  GroupLimits limits_;
  int64_t next_step_id_ = 0;
  std::vector<Slot> slots_;
  struct Block {
    int32_t n_slots = 0;   // open slots that have it
    int32_t n_tokens = 0;  // written since it was granted for writing
  };
  std::vector<Block> blocks_;  // [n_blocks]
};

}  // namespace bora
