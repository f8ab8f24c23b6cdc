#include "coordinator/scheduler/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <list>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace bora {
namespace {

constexpr auto kNoContent = BlockPool::kNoContent;

TEST(BlockPoolTest, HandsOutEveryBlockOnce) {
  BlockPool pool(5, 2);
  std::set<int32_t> ids;
  for (int i = 0; i < 5; ++i) ids.insert(pool.Allocate());
  EXPECT_EQ(ids, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.n_held(), 5);
  EXPECT_EQ(pool.n_available(), 0);
}

TEST(BlockPoolTest, HandsOutTheBlockFreedLast) {
  BlockPool pool(4, 2);
  const int32_t first = pool.Allocate();
  pool.Allocate();
  pool.Release({first});
  EXPECT_EQ(pool.Allocate(), first);
}

TEST(BlockPoolTest, FindsTheLongestKnownPrefixInWholeBlocks) {
  BlockPool pool(4, 2);
  const std::vector<int32_t> ids = {pool.Allocate(), pool.Allocate()};
  const auto one = pool.Publish(ids[0], "", kNoContent, {1, 2});
  pool.Publish(ids[1], "", one, {3, 4});
  EXPECT_EQ(pool.FindPrefix("", {1, 2, 3, 4, 5}).block_ids, ids);
  EXPECT_EQ(pool.FindPrefix("", {1, 2, 3, 4}).block_ids, ids);
  EXPECT_EQ(pool.FindPrefix("", {1, 2, 3}).block_ids, std::vector<int32_t>({ids[0]}));
  EXPECT_EQ(pool.FindPrefix("", {1, 2, 3}).content, one);
  EXPECT_TRUE(pool.FindPrefix("", {1}).block_ids.empty());
  // The same tokens at another place, or in another order, are something else.
  EXPECT_TRUE(pool.FindPrefix("", {3, 4}).block_ids.empty());
  EXPECT_TRUE(pool.FindPrefix("", {2, 1, 3, 4}).block_ids.empty());
  EXPECT_TRUE(pool.FindPrefix("salt", {1, 2, 3, 4}).block_ids.empty());
  EXPECT_EQ(pool.FindPrefix("", {1, 2, 3, 4}).block_ids, ids) << "also while it is held";
}

TEST(BlockPoolTest, SaltsHaveNothingInCommon) {
  BlockPool pool(4, 1);
  const int32_t a = pool.Allocate(), b = pool.Allocate();
  EXPECT_NE(pool.Publish(a, "a", kNoContent, {7}), pool.Publish(b, "b", kNoContent, {7}));
  EXPECT_EQ(pool.FindPrefix("a", {7}).block_ids, std::vector<int32_t>({a}));
  EXPECT_EQ(pool.FindPrefix("b", {7}).block_ids, std::vector<int32_t>({b}));
}

TEST(BlockPoolTest, TheSecondBlockOfOneContentStaysUnknown) {
  BlockPool pool(2, 1);
  const int32_t first = pool.Allocate(), second = pool.Allocate();
  const auto content = pool.Publish(first, "", kNoContent, {7});
  EXPECT_EQ(pool.Publish(second, "", kNoContent, {7}), content);
  pool.Release({second});
  EXPECT_EQ(pool.n_cached(), 0) << "an unknown block is free at once";
  EXPECT_EQ(pool.FindPrefix("", {7}).block_ids, std::vector<int32_t>({first}));
}

TEST(BlockPoolTest, CachedBlocksAreGivenAwayLastAndInOrderOfRelease) {
  BlockPool pool(4, 1);
  const std::vector<int32_t> old = {pool.Allocate(), pool.Allocate()};
  pool.Publish(old[1], "", pool.Publish(old[0], "", kNoContent, {1}), {2});
  const int32_t young = pool.Allocate();
  pool.Publish(young, "", kNoContent, {3});
  pool.Release(old);
  pool.Release({young});
  EXPECT_EQ(pool.n_cached(), 3);
  EXPECT_EQ(pool.n_available(), 4);
  pool.Allocate();  // the free one
  EXPECT_EQ(pool.FindPrefix("", {1, 2}).block_ids, old);
  EXPECT_EQ(pool.Allocate(), old[1]) << "of one prefix, the end first";
  EXPECT_EQ(pool.FindPrefix("", {1, 2}).block_ids, std::vector<int32_t>({old[0]}));
  EXPECT_EQ(pool.Allocate(), old[0]);
  EXPECT_EQ(pool.FindPrefix("", {3}).block_ids, std::vector<int32_t>({young}));
}

TEST(BlockPoolTest, AHeldBlockIsNotGivenAway) {
  BlockPool pool(2, 1);
  const int32_t id = pool.Allocate();
  pool.Publish(id, "", kNoContent, {1});
  pool.Hold(id);
  pool.Release({id});
  EXPECT_EQ(pool.n_available(), 1);
  pool.Release({id});
  EXPECT_EQ(pool.n_cached(), 1);
  pool.Hold(id);
  EXPECT_EQ(pool.n_cached(), 0);
  EXPECT_EQ(pool.n_available(), 1);
}

TEST(BlockPoolDeathTest, RefusesWhatNobodyHolds) {
  BlockPool pool(1, 1);
  const int32_t id = pool.Allocate();
  EXPECT_DEATH(pool.Allocate(), "n_available");
  pool.Release({id});
  EXPECT_DEATH(pool.Release({id}), "nobody holds block");
  EXPECT_DEATH(pool.Hold(id), "is free");
  EXPECT_DEATH(pool.Publish(id, "", kNoContent, {1}), "nobody holds block");
}

// What the pool must be, in the plainest terms: every block is free, held or cached; a known block
// stands for exactly its prefix.
class PoolModel {
 public:
  PoolModel(int32_t n_blocks, int32_t block_size, uint64_t seed)
      : random_(seed), pool_(n_blocks, block_size), prefix_of_(n_blocks), n_holders_(n_blocks) {}

  void RunOperations(int n_operations) {
    for (int i = 0; i < n_operations && !testing::Test::HasFailure(); ++i) {
      const uint64_t choice = random_() % 16;
      if (choice < 3) {
        Begin();
      } else if (choice < 13) {
        Grow();
      } else {
        End();
      }
      CheckCounts();
    }
    while (!sequences_.empty()) End();
    CheckCounts();
    EXPECT_EQ(pool_.n_held(), 0);
    EXPECT_EQ(pool_.n_available(), pool_.n_blocks());
  }

  int64_t n_hits() const { return n_hits_; }

 private:
  using Prefix = std::pair<std::string, std::vector<int32_t>>;  // salt, tokens from the beginning
  struct Sequence {
    Prefix prefix;
    std::vector<int32_t> block_ids;
    BlockPool::ContentId content = kNoContent;
    bool known = true;  // all of its blocks could be made known
  };

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % n); }

  // A new sequence takes over what is known of its beginning; tokens are few, so prefixes meet.
  void Begin() {
    Sequence sequence;
    sequence.prefix.first = Below(4) == 0 ? "s" : "";
    std::vector<int32_t> tokens(Below(6) * pool_.block_size());
    for (int32_t& token : tokens) token = Below(2);
    const BlockPool::Match match = pool_.FindPrefix(sequence.prefix.first, tokens);
    tokens.resize(match.block_ids.size() * pool_.block_size());
    sequence.prefix.second = tokens;
    sequence.block_ids = match.block_ids;
    sequence.content = match.content;
    for (size_t i = 0; i < match.block_ids.size(); ++i) {
      const int32_t id = match.block_ids[i];
      const Prefix want = {sequence.prefix.first,
                           {tokens.begin(), tokens.begin() + (i + 1) * pool_.block_size()}};
      EXPECT_EQ(prefix_of_[id], want) << "block " << id << " holds something else";
      pool_.Hold(id);
      ++n_holders_[id];
      ++n_hits_;
    }
    sequences_.push_back(std::move(sequence));
  }

  void Grow() {
    if (sequences_.empty() || pool_.n_available() == 0) return;
    Sequence& sequence = sequences_[Below(static_cast<int32_t>(sequences_.size()))];
    const int32_t id = pool_.Allocate();
    EXPECT_EQ(n_holders_[id], 0) << "block " << id << " was held";
    n_holders_[id] = 1;
    prefix_of_[id] = {"", {}};
    sequence.block_ids.push_back(id);
    std::vector<int32_t> tokens(pool_.block_size());
    for (int32_t& token : tokens) token = Below(2);
    sequence.prefix.second.insert(sequence.prefix.second.end(), tokens.begin(), tokens.end());
    // A sequence that did not publish one block cannot publish those after it.
    sequence.known = sequence.known && Below(8) != 0;
    if (!sequence.known) return;
    sequence.content = pool_.Publish(id, sequence.prefix.first, sequence.content, tokens);
    prefix_of_[id] = sequence.prefix;
  }

  void End() {
    if (sequences_.empty()) return;
    const int32_t i = Below(static_cast<int32_t>(sequences_.size()));
    std::swap(sequences_[i], sequences_.back());
    pool_.Release(sequences_.back().block_ids);
    for (const int32_t id : sequences_.back().block_ids) --n_holders_[id];
    sequences_.pop_back();
  }

  void CheckCounts() {
    int32_t n_held = 0;
    for (int32_t id = 0; id < pool_.n_blocks(); ++id) {
      ASSERT_EQ(pool_.n_holders(id), n_holders_[id]);
      n_held += n_holders_[id] > 0 ? 1 : 0;
    }
    ASSERT_EQ(pool_.n_held(), n_held);
    ASSERT_LE(pool_.n_cached(), pool_.n_available());
  }

  std::mt19937_64 random_;
  BlockPool pool_;
  std::vector<Prefix> prefix_of_;
  std::vector<int32_t> n_holders_;
  std::vector<Sequence> sequences_;
  int64_t n_hits_ = 0;
};

TEST(BlockPoolRandomTest, AMillionOperationsAgreeWithTheModel) {
  constexpr int kOperations = 350'000;
  int64_t n_hits = 0;
  for (const auto& [n_blocks, block_size] : {std::pair{7, 1}, {24, 2}, {64, 4}}) {
    PoolModel model(n_blocks, block_size, static_cast<uint64_t>(n_blocks));
    model.RunOperations(kOperations);
    n_hits += model.n_hits();
    ASSERT_FALSE(HasFailure()) << n_blocks << " blocks of " << block_size;
  }
  std::printf("%d operations, %lld blocks found\n", 3 * kOperations,
              static_cast<long long>(n_hits));
  EXPECT_GT(n_hits, kOperations / 10);
}

}  // namespace
}  // namespace bora
