#include "coordinator/block_manager.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace bora {
namespace {

TEST(BlockManagerTest, HandsOutEveryBlockOnce) {
  BlockManager blocks(5);
  ASSERT_TRUE(blocks.Reserve(5));
  std::set<int32_t> ids;
  for (int i = 0; i < 5; ++i) ids.insert(blocks.Allocate());
  EXPECT_EQ(ids, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.n_allocated(), 5);
}

TEST(BlockManagerTest, PromisesNoMoreThanThereIs) {
  BlockManager blocks(4);
  EXPECT_FALSE(blocks.Reserve(5));
  EXPECT_EQ(blocks.n_reserved(), 0);
  EXPECT_TRUE(blocks.Reserve(3));
  EXPECT_FALSE(blocks.Reserve(2));
  blocks.Allocate();
  // An allocated block was promised before: nothing more is free.
  EXPECT_FALSE(blocks.Reserve(2));
  EXPECT_TRUE(blocks.Reserve(1));
  EXPECT_TRUE(blocks.Reserve(0));
}

TEST(BlockManagerTest, TakesBlocksAndUnusedPromisesBack) {
  BlockManager blocks(4);
  ASSERT_TRUE(blocks.Reserve(4));
  const std::vector<int32_t> ids = {blocks.Allocate(), blocks.Allocate()};
  EXPECT_EQ(blocks.n_allocated(), 2);
  EXPECT_EQ(blocks.n_reserved(), 4);
  blocks.Release(ids, 2);
  EXPECT_EQ(blocks.n_allocated(), 0);
  EXPECT_EQ(blocks.n_reserved(), 0);
  EXPECT_TRUE(blocks.Reserve(4));
}

TEST(BlockManagerTest, HandsOutTheBlockFreedLast) {
  BlockManager blocks(4);
  ASSERT_TRUE(blocks.Reserve(3));
  const int32_t first = blocks.Allocate();
  blocks.Allocate();
  blocks.Release({first}, 0);
  EXPECT_EQ(blocks.Allocate(), first);
}

TEST(BlockManagerDeathTest, AllocatesNothingWithoutAPromise) {
  BlockManager blocks(4);
  EXPECT_DEATH(blocks.Allocate(), "n_promised_");
}

TEST(BlockManagerDeathTest, RefusesABlockThatIsFree) {
  BlockManager blocks(4);
  ASSERT_TRUE(blocks.Reserve(1));
  const int32_t id = blocks.Allocate();
  blocks.Release({id}, 0);
  EXPECT_DEATH(blocks.Release({id}, 0), "is already free");
}

}  // namespace
}  // namespace bora
