// One step (one forward pass over a batch of rows) as plain data. The coordinator sends a StepPlan,
// every rank of a group executes it, and the last stage's tensor rank 0 answers with a StepResult.
// All types here are plain values except SlotTracker. Protobuf appears only where a plan crosses a
// process boundary (model/protocol/worker_codec.h).
//
// A slot is a sequence's place on the workers: a number, a table of KV blocks, and the sampling
// parameters. The coordinator opens a slot, grants it blocks, sends rows of its tokens, and closes
// it. An epoch is the life of one group of workers; slots and blocks start empty in each epoch.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/step/sampling_params.h"

namespace bora {

// Bounds of all plans of an epoch, which every rank of the group is told when the epoch begins.
// A sampled token needs a position of its own, so a row that ends at max_model_len cannot sample.
struct GroupLimits {
  int32_t max_num_seqs = 0;            // number of slots: ids [0, max_num_seqs)
  int32_t max_num_batched_tokens = 0;  // tokens in all rows of one plan
  int32_t max_model_len = 0;           // tokens of one sequence: positions [0, max_model_len)
  int32_t block_size = 16;             // tokens in one KV block; a power of two >= 2
  int32_t n_blocks = 0;                // number of KV blocks: ids [0, n_blocks)
  // Token ids are [0, vocab_size). The model's matrices may have more rows, as padding: the sampler
  // ignores their logits.
  int32_t vocab_size = 0;

  bool operator==(const GroupLimits&) const = default;
};

// Opens a slot for a sequence, with all that workers must know of it before its first row.
struct SlotOpen {
  int32_t slot = 0;
  // Length of the prompt, > 0: the first generated token has this position.
  int32_t n_prompt_tokens = 0;
  // Number of tokens that the sequence had generated before this slot was opened; they count for
  // min_tokens. Above 0 after a failure or a preemption: the sequence then passes them through the
  // model again in rows, like a prompt.
  int32_t n_generated_tokens = 0;
  // Number of tokens at the sequence's beginning whose keys and values are in the KV cache already;
  // a multiple of block_size. The slot's first blocks hold them; these may be shared with other
  // slots and are only read. The slot's first row begins at this position.
  int32_t n_cached_tokens = 0;
  SamplingParams sampling;
  // If sampling has penalties, which depend on earlier tokens: the token ids of the prompt, then of
  // the n_generated_tokens. Else empty.
  std::vector<int32_t> known_tokens;

  bool operator==(const SlotOpen&) const = default;
};

// Appends one KV block to a slot's table. The blocks of a slot are granted in ascending order of
// block_idx, without gaps. A block for the slot's cached tokens may be in other slots' tables too,
// and must have been filled since it was last granted for writing. Any other block is granted for
// writing and must be in no slot's table.
struct BlockGrant {
  int32_t slot = 0;
  // Index in the slot's table: the block holds the tokens at positions [block_idx * block_size,
  // (block_idx + 1) * block_size).
  int32_t block_idx = 0;
  int32_t block_id = 0;  // the block of the rank's KV cache

  bool operator==(const BlockGrant&) const = default;
};

// A contiguous run of one slot's tokens that passes through the model in this step. A slot has at
// most one row in a plan; rows of a slot follow each other without gaps over its plans.
struct StepRow {
  int32_t slot = 0;
  int32_t position = 0;  // of the row's first token in its sequence
  int32_t n_tokens = 0;  // > 0; 1 if use_last_sampled
  // Index in StepPlan::tokens of the row's first token. Rows use the list in order and without
  // gaps. Unused if use_last_sampled.
  int32_t token_begin = 0;
  // The row has one token, the one that this slot sampled last. Workers pass it from the last stage
  // to the first themselves, so the coordinator may send the plan before it knows the token.
  bool use_last_sampled = false;
  // Whether to sample the token that follows the row's last token.
  bool sample = false;
  // Whether to report log-probabilities of the prompt tokens at positions [position + 1, position +
  // n_tokens], as far as the prompt has these positions.
  bool prompt_logprobs = false;

  bool operator==(const StepRow&) const = default;
};

// One step for every rank of a group.
struct StepPlan {
  int64_t epoch = 0;    // the group that the plan is for
  int64_t step_id = 0;  // 0, 1, 2, ... within an epoch, without gaps
  // Ranks apply closed, then opened, then grants, and then compute the rows.
  std::vector<int32_t> closed;  // slots that end
  std::vector<SlotOpen> opened;
  std::vector<BlockGrant> grants;
  std::vector<StepRow> rows;
  std::vector<int32_t> tokens;  // token ids of all rows without use_last_sampled, in row order
  // A row with prompt_logprobs also reports the token that follows its last one, which is not in
  // the row: next_tokens[i] is the token at row i's position + n_tokens, or -1 if that position is
  // behind the prompt or row i has no prompt_logprobs. [rows.size()], or empty if no row has
  // prompt_logprobs.
  std::vector<int32_t> next_tokens;

  bool operator==(const StepPlan&) const = default;
};

// An alternative to a token.
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;  // natural logarithm of its probability

  bool operator==(const TokenLogprob&) const = default;
};

// A token that was sampled, or a token of the prompt, with its log-probability.
struct SampledToken {
  int32_t slot = 0;
  int32_t position = 0;   // of this token in its sequence
  int32_t token_id = -1;  // -1 only if non_finite
  // Valid if the slot's n_logprobs >= 0; for a token of the prompt, if its n_prompt_logprobs >= 0.
  float logprob = 0;
  int32_t rank = 0;               // among all tokens, 1 = most probable; valid if logprob is
  std::vector<TokenLogprob> top;  // the most probable tokens, best first
  // The logits were not finite: token_id is -1 since no token could be drawn, and the request must
  // fail.
  bool non_finite = false;

  bool operator==(const SampledToken&) const = default;
};

// The answer to a plan.
struct StepResult {
  int64_t epoch = 0;                          // of the plan
  int64_t step_id = 0;                        // of the plan
  std::vector<SampledToken> sampled;          // one for each row with sample, in row order
  std::vector<SampledToken> prompt_logprobs;  // in row order, then ascending position
  // Microseconds for which each stage's tensor rank 0 computed, without its waits for other stages
  // and for sampled tokens; all 0 if the plan has no rows. [pp_size]
  std::vector<int64_t> stage_us;

  bool operator==(const StepResult&) const = default;
};

// Upper bounds of the fields of GroupLimits, so that a rank can compute the size of its step inputs
// without overflow. They are far above any sensible deployment.
inline constexpr int32_t kMaxNumSeqs = 1 << 16;
inline constexpr int32_t kMaxNumBatchedTokens = 1 << 20;
inline constexpr int32_t kMaxModelLen = 1 << 24;
inline constexpr int32_t kMaxBlockSize = 512;  // attention works in splits of 512 tokens

// Checks that every limit is in [1, its cap above], n_blocks and vocab_size in [1, 2^31 - 1], and
// that block_size is a power of two >= 2. INVALID_ARGUMENT names the limit that is out of range.
absl::Status ValidateLimits(const GroupLimits& limits);

// Checks everything about a plan that does not depend on the state of slots: ids are in range, no
// list names a slot twice (except grants), token ids are in the vocabulary, sums are within the
// limits, and sampling parameters are in their ranges. INVALID_ARGUMENT names the field, the value
// and the limit. A pure function, linear in the size of the plan and in max_num_seqs.
absl::Status ValidatePlan(const StepPlan& plan, const GroupLimits& limits);

// The state of all slots and KV blocks of an epoch, as the plans so far imply it. Each rank keeps
// one and refuses a plan that contradicts it. It finds errors that ValidatePlan cannot find: rows
// that leave gaps; blocks that are missing, granted for writing while a slot has them, or shared
// before they are full; slots that are opened twice or used while closed; use_last_sampled without
// a sampled token. Owned by one thread.
class SlotTracker {
 public:
  // Starts with all slots closed and all blocks free. REQUIRES: ValidateLimits(limits) is OK
  // (CHECK).
  explicit SlotTracker(const GroupLimits& limits);

  // Checks the plan with ValidatePlan and against the state, and applies it. INVALID_ARGUMENT says
  // what is wrong with the plan; it may then be applied in part, so the tracker must not be used
  // again. The plan's step_id must be the number of plans applied before; its epoch is not checked.
  absl::Status Apply(const StepPlan& plan);

  // Returns the block table of `slot`: [block_idx] -> block_id. Valid until the next Apply.
  // REQUIRES: the slot is open (CHECK).
  absl::Span<const int32_t> block_ids(int32_t slot) const;
  // Returns the length of the prompt of `slot`. REQUIRES: the slot is open (CHECK).
  int32_t n_prompt_tokens(int32_t slot) const;

 private:
  struct Slot {
    bool open = false;
    int32_t n_tokens = 0;  // tokens that have passed through the model, cached ones included
    int32_t n_cached_tokens = 0;
    int32_t n_prompt_tokens = 0;
    bool wants_prompt_logprobs = false;
    bool has_sampled = false;        // its latest row sampled the token at position n_tokens
    std::vector<int32_t> block_ids;  // the block table
  };

  // Each applies one element of a plan that ValidatePlan has accepted. INVALID_ARGUMENT if the
  // element contradicts the state.
  absl::Status Close(int32_t slot);
  absl::Status Open(const SlotOpen& open);
  absl::Status Grant(const BlockGrant& grant);
  absl::Status ApplyRow(const StepRow& row);

  GroupLimits limits_;
  int64_t next_step_id_ = 0;
  std::vector<Slot> slots_;  // [max_num_seqs]
  struct Block {
    int32_t n_slots = 0;   // open slots that have the block
    int32_t n_tokens = 0;  // written since the block was last granted for writing
  };
  std::vector<Block> blocks_;  // [n_blocks]
};

}  // namespace bora
