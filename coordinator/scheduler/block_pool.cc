#include "coordinator/scheduler/block_pool.h"

#include "base/check.h"

namespace bora {

BlockPool::BlockPool(int32_t n_blocks, int32_t block_size) : block_size_(block_size) {
  CHECK_GE(n_blocks, 0);
  CHECK_GT(block_size, 0);
  blocks_.resize(static_cast<size_t>(n_blocks));
  free_.reserve(static_cast<size_t>(n_blocks));
  for (int32_t block_id = n_blocks - 1; block_id >= 0; --block_id) free_.push_back(block_id);
}

int32_t BlockPool::Allocate() {
  CHECK_GT(n_available(), 0);
  if (free_.empty()) {
    const int32_t block_id = first_cached_;
    UnlinkFromCached(block_id);
    Forget(block_id);
    free_.push_back(block_id);
  }
  const int32_t block_id = free_.back();
  free_.pop_back();
  blocks_[block_id].n_holders = 1;
  return block_id;
}

void BlockPool::Hold(int32_t block_id) {
  Block& block = blocks_[block_id];
  if (block.n_holders == 0) {
    CHECK_NE(block.content, kNoContent) << "block " << block_id << " is free";
    UnlinkFromCached(block_id);
  }
  ++block.n_holders;
}

void BlockPool::Release(absl::Span<const int32_t> block_ids) {
  for (auto it = block_ids.rbegin(); it != block_ids.rend(); ++it) {
    Block& block = blocks_[*it];
    CHECK_GT(block.n_holders, 0) << "nobody holds block " << *it;
    if (--block.n_holders > 0) continue;
    if (block.content == kNoContent) {
      free_.push_back(*it);
    } else {
      AppendToCached(*it);
    }
  }
}

BlockPool::Match BlockPool::FindPrefix(absl::string_view salt,
                                       absl::Span<const int32_t> tokens) const {
  Match match;
  for (size_t begin = 0; begin + block_size_ <= tokens.size(); begin += block_size_) {
    const auto it = known_.find(KeyOf(salt, match.content, tokens.subspan(begin, block_size_)));
    if (it == known_.end()) break;
    match.block_ids.push_back(it->second);
    match.content = blocks_[it->second].content;
  }
  return match;
}

BlockPool::ContentId BlockPool::Publish(int32_t block_id, absl::string_view salt, ContentId before,
                                        absl::Span<const int32_t> tokens) {
  Block& block = blocks_[block_id];
  CHECK_GT(block.n_holders, 0) << "nobody holds block " << block_id;
  CHECK_EQ(block.content, kNoContent) << "block " << block_id << " is known already";
  CHECK_EQ(tokens.size(), static_cast<size_t>(block_size_));
  if (const auto it = known_.find(KeyOf(salt, before, tokens)); it != known_.end()) {
    return blocks_[it->second].content;
  }
  block.content = next_content_++;
  block.before = before;
  block.salt = before == kNoContent ? std::string(salt) : std::string();
  block.tokens.assign(tokens.begin(), tokens.end());
  known_.emplace(block.key(), block_id);
  return block.content;
}

void BlockPool::AppendToCached(int32_t block_id) {
  Block& block = blocks_[block_id];
  block.previous = last_cached_;
  block.next = -1;
  (last_cached_ < 0 ? first_cached_ : blocks_[last_cached_].next) = block_id;
  last_cached_ = block_id;
  ++n_cached_;
}

void BlockPool::UnlinkFromCached(int32_t block_id) {
  const Block& block = blocks_[block_id];
  (block.previous < 0 ? first_cached_ : blocks_[block.previous].next) = block.next;
  (block.next < 0 ? last_cached_ : blocks_[block.next].previous) = block.previous;
  --n_cached_;
}

void BlockPool::Forget(int32_t block_id) {
  Block& block = blocks_[block_id];
  known_.erase(block.key());
  block.content = kNoContent;
}

}  // namespace bora
