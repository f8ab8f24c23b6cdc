#include "coordinator/block_manager.h"

#include "base/check.h"

namespace bora {

BlockManager::BlockManager(int32_t n_blocks) : n_blocks_(n_blocks), allocated_(n_blocks, false) {
  CHECK_GE(n_blocks, 0);
  free_.reserve(n_blocks);
  for (int32_t block_id = n_blocks - 1; block_id >= 0; --block_id) free_.push_back(block_id);
}

bool BlockManager::Reserve(int32_t n) {
  CHECK_GE(n, 0);
  if (n > n_blocks_ - n_reserved()) return false;
  n_promised_ += n;
  return true;
}

int32_t BlockManager::Allocate() {
  CHECK_GT(n_promised_, 0);
  CHECK(!free_.empty());
  --n_promised_;
  const int32_t block_id = free_.back();
  free_.pop_back();
  allocated_[block_id] = true;
  return block_id;
}

void BlockManager::Release(absl::Span<const int32_t> block_ids, int32_t n_unused_reservations) {
  CHECK_LE(n_unused_reservations, n_promised_);
  n_promised_ -= n_unused_reservations;
  for (const int32_t block_id : block_ids) {
    CHECK(allocated_[block_id]) << "block " << block_id << " is already free";
    allocated_[block_id] = false;
    free_.push_back(block_id);
  }
}

}  // namespace bora
