#include "model/planning/partition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/mistral_7b.h"
#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int64_t> LayersPerStage(const ModelConfig& config, int pp_size) {
  const auto partition = MakePartition(config, 1, pp_size);
  EXPECT_TRUE(partition.ok()) << partition.status();
  std::vector<int64_t> n_layers;
  for (const LayerRange& stage : partition->stages) n_layers.push_back(stage.n_layers());
  return n_layers;
}

std::string ErrorOf(const absl::StatusOr<Partition>& partition) {
  EXPECT_EQ(partition.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(partition.status().message());
}

TEST(PartitionTest, SplitsEvenlyWhereItCan) {
  EXPECT_THAT(LayersPerStage(Mistral7B(), 1), ElementsAre(32));
  EXPECT_THAT(LayersPerStage(Mistral7B(), 2), ElementsAre(16, 16));
  EXPECT_THAT(LayersPerStage(Mistral7B(), 4), ElementsAre(8, 8, 8, 8));
}

TEST(PartitionTest, GivesTheStageWithTheHeadFewerLayers) {
  EXPECT_THAT(LayersPerStage(Mistral7B(), 3), ElementsAre(11, 11, 10));
}

TEST(PartitionTest, GivesTheStageWithTheEmbeddingFewerLayersNext) {
  EXPECT_THAT(LayersPerStage(Mistral7B(), 5), ElementsAre(6, 7, 7, 6, 6));
}

TEST(PartitionTest, MovesLayersAwayFromAHeavyHead) {
  ModelConfig config = Mistral7B();
  config.vocab_size = 256'000;  // 4.8 layers' worth of weights
  EXPECT_THAT(LayersPerStage(config, 2), ElementsAre(18, 14));
}

TEST(PartitionTest, EveryStageHasALayer) {
  EXPECT_THAT(LayersPerStage(TinyConfig(), 2), ElementsAre(1, 1));
}

TEST(PartitionTest, TakesAnExplicitSplit) {
  const std::vector<int64_t> n_layers = {20, 12};
  const auto partition = MakePartition(Mistral7B(), 2, 2, n_layers);
  ASSERT_TRUE(partition.ok()) << partition.status();
  EXPECT_THAT(partition->stages, ElementsAre(LayerRange{0, 20}, LayerRange{20, 32}));
}

TEST(PartitionTest, RefusesSizesThatDoNotDivide) {
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 3, 1)),
              HasSubstr("tensor parallel size 3 does not divide n_heads 32"));
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 64, 1)),
              HasSubstr("tensor parallel size 64 does not divide n_heads 32"));
  ModelConfig config = Mistral7B();
  config.hidden_dim = 14337;
  EXPECT_THAT(ErrorOf(MakePartition(config, 2, 1)), HasSubstr("hidden_dim 14337"));
}

// Where the sums of two, four or eight ranks would have other bits than one rank's.
TEST(PartitionTest, RefusesRanksThatWouldCutALeaf) {
  ModelConfig config = Mistral7B();
  config.hidden_dim = 136;
  EXPECT_TRUE(MakePartition(config, 2, 1).ok());
  EXPECT_EQ(
      ErrorOf(MakePartition(config, 4, 1)),
      "tensor parallel size 4: hidden_dim 136 leaves each rank 34, which is not a multiple of "
      "4");
  config.hidden_dim = 8 * 12;
  config.head_dim = 2;
  config.n_heads = config.n_kv_heads = 8;
  EXPECT_TRUE(MakePartition(config, 4, 1).ok());
  EXPECT_EQ(ErrorOf(MakePartition(config, 8, 1)),
            "tensor parallel size 8: n_heads * head_dim 16 leaves each rank 2, which is not a "
            "multiple of 4");
  // Three ranks have bits of their own in any case.
  config.n_heads = config.n_kv_heads = 9;
  config.hidden_dim = 3 * 7;
  EXPECT_TRUE(MakePartition(config, 3, 1).ok());
}

TEST(PartitionTest, RefusesRanksThatWouldNeedPartsOfKvHeads) {
  ModelConfig config = Mistral7B();
  config.n_heads = 24;
  config.n_kv_heads = 6;
  config.hidden_dim = 24 * 256;
  for (const int tp_size : {1, 2, 3, 6, 12, 24}) {
    EXPECT_TRUE(MakePartition(config, tp_size, 1).ok()) << tp_size;
  }
  EXPECT_THAT(ErrorOf(MakePartition(config, 4, 1)),
              HasSubstr("tensor parallel size 4 and n_kv_heads 6: neither divides the other"));
  EXPECT_THAT(ErrorOf(MakePartition(config, 8, 1)),
              HasSubstr("tensor parallel size 8 and n_kv_heads 6: neither divides the other"));
}

TEST(PartitionTest, RefusesSizesOutOfRange) {
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 0, 1)), HasSubstr("tensor parallel size is 0"));
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 1, 0)), HasSubstr("pipeline parallel size is 0"));
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 1, 33)), HasSubstr("must be in [1, 32]"));
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), -2, 1)), HasSubstr("is -2"));
}

TEST(PartitionTest, RefusesAnExplicitSplitThatDoesNotFit) {
  const std::vector<int64_t> short_sum = {16, 15};
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 1, 2, short_sum)),
              HasSubstr("16,15 add up to 31, the model has 32"));
  const std::vector<int64_t> three = {10, 11, 11};
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 1, 2, three)),
              HasSubstr("names 3 stages, there are 2"));
  const std::vector<int64_t> zero = {0, 32};
  EXPECT_THAT(ErrorOf(MakePartition(Mistral7B(), 1, 2, zero)), HasSubstr("0 must be in [1, 32]"));
}

// LLaMA-1 33B has 52 heads: 8 ranks do not fit, 4 and 13 do.
TEST(PartitionTest, KnowsTheSizesOfLlama33B) {
  ModelConfig config = Mistral7B();
  config.dim = 6656;
  config.hidden_dim = 17920;
  config.n_layers = 60;
  config.n_heads = config.n_kv_heads = 52;
  EXPECT_FALSE(MakePartition(config, 8, 1).ok());
  EXPECT_TRUE(MakePartition(config, 4, 1).ok());
  EXPECT_FALSE(MakePartition(config, 13, 1).ok());  // 17920 = 2^9 * 5 * 7
}

TEST(PartitionTest, RanksCoverEverythingOnce) {
  const ModelConfig config = Mistral7B();
  const auto partition = MakePartition(config, 4, 3);
  ASSERT_TRUE(partition.ok());
  int64_t next_layer = 0;
  for (int stage = 0; stage < 3; ++stage) {
    int64_t next_row = 0;
    for (int tp_rank = 0; tp_rank < 4; ++tp_rank) {
      const RankShape shape = ShapeOfRank(config, *partition, stage, tp_rank);
      EXPECT_EQ(shape.layers.begin, next_layer);
      EXPECT_EQ(shape.local_n_heads, 8);
      EXPECT_EQ(shape.kv_head_begin, 2 * tp_rank);
      EXPECT_EQ(shape.local_n_kv_heads, 2);
      EXPECT_EQ(shape.local_hidden_dim, 3584);
      EXPECT_EQ(shape.vocab_begin, next_row);
      EXPECT_EQ(shape.has_embedding, stage == 0);
      EXPECT_EQ(shape.has_head, stage == 2);
      next_row = shape.vocab_end;
    }
    EXPECT_EQ(next_row, config.vocab_size);
    next_layer = partition->stages[stage].end;
  }
  EXPECT_EQ(next_layer, config.n_layers);
}

// Copies of KV heads make the layers of every rank heavier against its share of the head.
TEST(PartitionTest, BalancesStagesWithCopiesOfKvHeadsCounted) {
  ModelConfig config = Mistral7B();
  config.n_kv_heads = 1;
  config.hidden_dim = 512;
  config.vocab_size = 64'000;  // 6.5 layers' worth of weights without copies, 3.9 with 32
  for (const auto& [tp_size, n_first] : {std::pair(1, 19), std::pair(32, 18)}) {
    const auto partition = MakePartition(config, tp_size, 2);
    ASSERT_TRUE(partition.ok()) << partition.status();
    EXPECT_EQ(partition->stages[0].n_layers(), n_first) << tp_size << " ranks";
  }
}

// Of every number of KV heads and ranks that fit 32 heads: the KV heads of a rank are those of its
// heads, all of them needed.
TEST(PartitionTest, ARankHasTheKvHeadsOfItsHeads) {
  ModelConfig config = Mistral7B();
  for (const int64_t n_kv_heads : {1, 2, 4, 8, 16, 32}) {
    config.n_kv_heads = n_kv_heads;
    const int64_t group = config.n_heads / n_kv_heads;
    for (const int tp_size : {1, 2, 4, 8, 16, 32}) {
      const auto partition = MakePartition(config, tp_size, 1);
      ASSERT_TRUE(partition.ok()) << partition.status();
      for (int tp_rank = 0; tp_rank < tp_size; ++tp_rank) {
        const RankShape shape = ShapeOfRank(config, *partition, 0, tp_rank);
        EXPECT_EQ(shape.local_n_heads % shape.local_n_kv_heads, 0);
        const int64_t local_group = shape.local_n_heads / shape.local_n_kv_heads;
        for (int64_t i = 0; i < shape.local_n_heads; ++i) {
          EXPECT_EQ(shape.kv_head_begin + i / local_group,
                    (tp_rank * shape.local_n_heads + i) / group)
              << "head " << i << " of rank " << tp_rank << " of " << tp_size << ", " << n_kv_heads
              << " KV heads";
        }
      }
    }
  }
}

// CodeLlama's 32016 tokens are not a multiple of 32: the last rank is padded.
TEST(PartitionTest, PadsAVocabularyThatDoesNotDivide) {
  ModelConfig config = Mistral7B();
  config.n_kv_heads = 32;
  config.hidden_dim = 11008;
  config.vocab_size = 32016;
  const auto partition = MakePartition(config, 32, 1);
  ASSERT_TRUE(partition.ok()) << partition.status();
  const RankShape first = ShapeOfRank(config, *partition, 0, 0);
  const RankShape last = ShapeOfRank(config, *partition, 0, 31);
  EXPECT_EQ(first.local_vocab_size, 1001);
  EXPECT_EQ(last.local_vocab_size, 1001);
  EXPECT_EQ(last.vocab_begin, 31031);
  EXPECT_EQ(last.vocab_end, 32016);
}

TEST(PartitionTest, AVocabularySmallerThanTheRanksLeavesSomeEmpty) {
  ModelConfig config = Mistral7B();
  config.vocab_size = 9;
  const auto partition = MakePartition(config, 8, 1);
  ASSERT_TRUE(partition.ok());
  const RankShape last = ShapeOfRank(config, *partition, 0, 7);
  EXPECT_EQ(last.local_vocab_size, 2);
  EXPECT_EQ(last.vocab_begin, 9);
  EXPECT_EQ(last.vocab_end, 9);
}

}  // namespace
}  // namespace bora
