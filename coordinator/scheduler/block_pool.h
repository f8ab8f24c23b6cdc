// The coordinator's account of KV blocks: how many sequences hold each block, and which blocks have
// content that can be used again.
//
// A block is free, held by one or several sequences, or cached. A cached block is held by no
// sequence, but it is full and its content is known, so that a sequence with the same prefix can
// hold it again. If no free block is left, the cached block that was released first is given away.
//
// Content is known exactly, not by a hash: the key of a block is the identity of the content before
// it, and the block's own tokens. So two prefixes are the same only if all of their tokens are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bora {

// Pure: no clock, I/O or thread. Owned by the engine thread.
class BlockPool {
 public:
  // Names the tokens of a full block together with all tokens before them. An id is never used
  // again for other tokens, not even after its block was given away.
  using ContentId = uint64_t;
  // Names the empty prefix, which is before the first block.
  static constexpr ContentId kNoContent = 0;

  // A prefix that is in the pool.
  struct Match {
    std::vector<int32_t> block_ids;  // in the order of the tokens
    ContentId content = kNoContent;  // of the whole prefix
  };

  // All blocks [0, n_blocks), of block_size tokens each, are free. REQUIRES: n_blocks >= 0,
  // block_size > 0.
  BlockPool(int32_t n_blocks, int32_t block_size);

  // Free and cached blocks: as many can be allocated.
  int32_t n_available() const { return static_cast<int32_t>(free_.size()) + n_cached_; }
  // Takes a block for writing, which the caller holds from now on: a free block, or else the cached
  // one that was released first. REQUIRES: n_available() > 0.
  int32_t Allocate();
  // Adds a holder to a block. REQUIRES: the block is held or cached.
  void Hold(int32_t block_id);
  // Removes a holder from each of a sequence's blocks, given in the order of its tokens. A block
  // without holders becomes cached if its content is known, and free otherwise. Of the blocks that
  // become cached the last ones are given away first, as a block is of no use without its prefix.
  // REQUIRES: all of the blocks are held.
  void Release(absl::Span<const int32_t> block_ids);

  // The longest prefix of `tokens` that is in the pool, in whole blocks, held or cached. Only
  // prefixes that were published under the same salt count. Linear in the length of the prefix.
  Match FindPrefix(absl::string_view salt, absl::Span<const int32_t> tokens) const;
  // Makes the content of a held block known: the prefix `before` followed by `tokens` [block_size].
  // Returns the content's id. If another block is known to have the same content, its id is
  // returned, and this block stays unknown. REQUIRES: the block is held and not known yet.
  ContentId Publish(int32_t block_id, absl::string_view salt, ContentId before,
                    absl::Span<const int32_t> tokens);

  int32_t n_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t block_size() const { return block_size_; }
  int32_t n_cached() const { return n_cached_; }
  // Blocks that are held by at least one sequence.
  int32_t n_held() const { return n_blocks() - n_available(); }
  // Sequences that hold the block.
  int32_t n_holders(int32_t block_id) const { return blocks_[block_id].n_holders; }

 private:
  // What content is looked up by. The salt is that of a first block and empty for later blocks,
  // whose `before` implies it.
  struct Key {
    ContentId before = kNoContent;
    absl::string_view salt;
    absl::Span<const int32_t> tokens;

    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.before, key.salt, key.tokens);
    }
  };
  struct Block {
    int32_t n_holders = 0;
    // kNoContent unless the content is known; the fields below it are what its key in known_
    // refers to.
    ContentId content = kNoContent;
    ContentId before = kNoContent;
    std::string salt;
    std::vector<int32_t> tokens;
    // Neighbours in the list of cached blocks; -1: none.
    int32_t previous = -1;
    int32_t next = -1;

    Key key() const { return {before, salt, tokens}; }
  };

  static Key KeyOf(absl::string_view salt, ContentId before, absl::Span<const int32_t> tokens) {
    return {before, before == kNoContent ? salt : absl::string_view(), tokens};
  }
  void AppendToCached(int32_t block_id);
  void UnlinkFromCached(int32_t block_id);
  // Removes the block's content from known_.
  void Forget(int32_t block_id);

  const int32_t block_size_;
  std::vector<Block> blocks_;
  // A stack: the block that was freed last is the likeliest to be in the processor's cache.
  std::vector<int32_t> free_;
  // The list of cached blocks, in the order of their release; -1: it is empty.
  int32_t n_cached_ = 0;
  int32_t first_cached_ = -1;
  int32_t last_cached_ = -1;
  ContentId next_content_ = 1;
  absl::flat_hash_map<Key, int32_t> known_;  // block ids; the keys refer to blocks_
};

}  // namespace bora
