// The coordinator's account of KV blocks: who holds which, and what the blocks hold that can be
// used again.
//
// A block is free (it holds nothing), held by one sequence or several, or cached: nobody holds it,
// but it is full and known by its content. Cached blocks are given away when no free one is left,
// those first that were let go of first.
//
// Content is known exactly, not by a hash: a block's key is the identity of the block before it and
// its own tokens, so that two prefixes are the same only if all of their tokens are.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace bora {

// Pure: no clock, I/O or thread. Owned by the engine thread.
class BlockPool {
 public:
  // Names what a full block and all blocks before it hold. Never used for anything else, even
  // after the block was given away.
  using ContentId = uint64_t;
  // Before the first block.
  static constexpr ContentId kNoContent = 0;

  struct Match {
    std::vector<int32_t> block_ids;
    ContentId content = kNoContent;  // of the last one
  };

  // Blocks [0, n_blocks) of block_size tokens, all free.
  BlockPool(int32_t n_blocks, int32_t block_size);

  // What Allocate can hand out: free and cached blocks.
  int32_t n_available() const { return static_cast<int32_t>(free_.size()) + n_cached_; }
  // Takes a block for writing: a free one, else the cached one that was let go of first. There must
  // be one (CHECK).
  int32_t Allocate();
  // One more holder of a block that is held or cached.
  void Hold(int32_t block_id);
  // Lets go of a sequence's blocks, which are in the order of its tokens. Of what becomes cached,
  // the last blocks are given away first: a prefix is of use without them, they are not without it.
  void Release(absl::Span<const int32_t> block_ids);

  // The longest known prefix of `tokens` in whole blocks, held or cached. Prefixes under different
  // salts have nothing in common.
  Match FindPrefix(absl::string_view salt, absl::Span<const int32_t> tokens) const;
  // Makes a held block known, which follows `before` and is filled with `tokens` [block_size].
  // Returns what it and all before it hold; where another block is known to hold the same, that
  // one's, and this one stays unknown.
  ContentId Publish(int32_t block_id, absl::string_view salt, ContentId before,
                    absl::Span<const int32_t> tokens);

  int32_t n_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t block_size() const { return block_size_; }
  int32_t n_cached() const { return n_cached_; }
  int32_t n_held() const { return n_blocks() - n_available(); }
  int32_t n_holders(int32_t block_id) const { return blocks_[block_id].n_holders; }

 private:
  // A block's place among prefixes; the salt counts in the first block only, later ones name it by
  // what is before them.
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
    // When known: its name, and what its key in known_ refers to.
    ContentId content = kNoContent;
    ContentId before = kNoContent;
    std::string salt;
    std::vector<int32_t> tokens;
    // Of the list of cached blocks.
    int32_t previous = -1;
    int32_t next = -1;

    Key key() const { return {before, salt, tokens}; }
  };

  static Key KeyOf(absl::string_view salt, ContentId before, absl::Span<const int32_t> tokens) {
    return {before, before == kNoContent ? salt : absl::string_view(), tokens};
  }
  void AppendToCached(int32_t block_id);
  void UnlinkFromCached(int32_t block_id);
  void Forget(int32_t block_id);

  const int32_t block_size_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // a stack: the block freed last is the likeliest to be in a cache
  int32_t n_cached_ = 0;
  int32_t first_cached_ = -1;  // let go of first
  int32_t last_cached_ = -1;
  ContentId next_content_ = 1;
  absl::flat_hash_map<Key, int32_t> known_;
};

}  // namespace bora
