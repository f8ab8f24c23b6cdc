// The coordinator's account of KV blocks: which are free, which are promised. Admission reserves
// what a sequence may need in the worst case, so that an admitted sequence never waits for memory.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace bora {

// Pure: no clock, I/O or thread. Owned by the engine thread.
class BlockManager {
 public:
  // Blocks [0, n_blocks), all free.
  explicit BlockManager(int32_t n_blocks);

  // Promises `n` blocks, or nothing and false if fewer are unpromised.
  bool Reserve(int32_t n);
  // Hands out one of the promised blocks: there must be one (CHECK).
  int32_t Allocate();
  // Returns allocated blocks, and promises that were not used.
  void Release(absl::Span<const int32_t> block_ids, int32_t n_unused_reservations);

  int32_t n_blocks() const { return n_blocks_; }
  int32_t n_allocated() const { return n_blocks_ - static_cast<int32_t>(free_.size()); }
  // Allocated blocks and promises for more.
  int32_t n_reserved() const { return n_allocated() + n_promised_; }

 private:
  int32_t n_blocks_;
  int32_t n_promised_ = 0;
  std::vector<int32_t> free_;  // a stack: the block freed last is the likeliest to be in a cache
  std::vector<bool> allocated_;
};

}  // namespace bora
