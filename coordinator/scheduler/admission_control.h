// Whether a waiting sequence is let in: the KV blocks that it takes must be available beside the
// blocks that running sequences will still take.
//
// Growth. Blocks for completions are not set aside at first, as most completions end before
// max_tokens. So blocks can run out, and then a running sequence is preempted. Each preemption for
// blocks raises the part of all completions that is expected to be generated, for which admission
// leaves room from then on; each plan lowers it a little again.
//
// Memory. To find what a waiting sequence takes, its prompt is looked up in the block pool, which
// is linear in the prompt. So the need of the sequence that was looked up last is remembered: while
// that many blocks are not free, the sequence is refused without looking again, for 16 plans at
// most.
#pragma once

#include <cstdint>
#include <optional>

#include "coordinator/scheduler/block_pool.h"
#include "coordinator/scheduler/running_sequences.h"
#include "coordinator/scheduler/sequence.h"

namespace bora {

// The longest prefix of the sequence's known tokens that it may take from the pool instead of
// computing it; at least its last known token is left to compute. Linear in the known tokens.
BlockPool::Match FindCachedPrefix(const Sequence& sequence, const BlockPool& blocks);

// Pure. Owned by the engine thread. Holds no reference to its arguments.
class AdmissionControl {
 public:
  // What a sequence takes that is admitted now.
  struct Needs {
    BlockPool::Match cached;         // blocks to share
    int32_t n_available_blocks = 0;  // blocks that are available now and will not be afterwards
  };

  // The sequence's needs if enough blocks are free for it; otherwise nothing, and the refusal is
  // remembered.
  std::optional<Needs> Fit(const Sequence& sequence, const RunningSequences& running,
                           const BlockPool& blocks);

  // Available blocks beyond what the running sequences are expected to take still: the rest of
  // their prefills and a part of their completions, at least one block each. May be negative.
  // Linear in the number of running sequences.
  int32_t FreeBlocks(const RunningSequences& running, const BlockPool& blocks) const;

  // Whether the sequence's need is the one that is remembered.
  bool Remembers(const Sequence& sequence) const { return handle_ == sequence.spec.handle; }
  // Whether the sequence would be refused if its need is still what is remembered.
  bool IsRefused(const Sequence& sequence, const RunningSequences& running,
                 const BlockPool& blocks) const {
    return Remembers(sequence) && n_blocks_ > FreeBlocks(running, blocks);
  }
  // Blocks that the sequence needs: as remembered, or else looked up now and remembered.
  int32_t RecallBlocks(const Sequence& sequence, const BlockPool& blocks);

  // A sequence was preempted because blocks ran out: more growth is expected.
  void RaiseGrowth();
  // A plan was made: a little less growth is expected.
  void LowerGrowth();

 private:
  Needs FindNeeds(const Sequence& sequence, const BlockPool& blocks) const;
  void Remember(const Sequence& sequence, int32_t n_blocks);
  // Blocks of the sequence's completion that admission leaves room for once it has n_blocks.
  int32_t GrowthExpected(const Sequence& sequence, int64_t n_blocks, int32_t block_size) const;

  // Of the blocks that completions may still take, the part that they are expected to take, [0, 1].
  double growth_ratio_ = 0;
  // The sequence whose need is remembered, its need, and how many more refusals are based on it.
  std::optional<uint64_t> handle_;
  int32_t n_blocks_ = 0;
  int32_t n_refusals_left_ = 0;
};

}  // namespace bora
