#include "worker/stage/step_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/check.h"
#include "tests/worker/plan_builder.h"
#include "tests/worker/tiny_model.h"
#include "worker/stage/collectives.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kPrompt[] = {10, 11, 12, 13, 14, 15};

std::vector<int32_t> Array(const int32_t* data, int64_t n) {
  return std::vector<int32_t>(data, data + n);
}

// Slot 2 has passed five of its six prompt tokens and slot 4 its whole prompt of two.
class StepInputsTest : public testing::Test {
 protected:
  StepInputsTest() : builder_(TinyLimits(), 1), slots_(TinyLimits()), inputs_(TinyLimits()) {
    builder_.Open(2, 6, {.n_prompt_logprobs = 0});
    builder_.Open(4, 2, {});
    builder_.AddRow(2, absl::MakeSpan(kPrompt).subspan(0, 5),
                    {.prompt_logprobs = true, .next_token = 15});
    builder_.AddRow(4, {20, 21}, {.sample = true});
    Build(builder_.Take());
  }

  void Build(const StepPlan& plan) {
    CHECK_OK(slots_.Apply(plan));
    const std::vector<int32_t> last_tokens = {0, 0, 0, 0, 77, 0};
    inputs_.Build(plan, slots_, last_tokens);
  }

  PlanBuilder builder_;
  SlotTracker slots_;
  StepInputs inputs_;
};

TEST_F(StepInputsTest, RowsFollowEachOther) {
  const StepTokensView view = inputs_.view();
  EXPECT_EQ(view.n_rows, 2);
  EXPECT_EQ(view.n_tokens, 7);
  EXPECT_THAT(inputs_.token_ids(), ElementsAre(10, 11, 12, 13, 14, 20, 21));
  EXPECT_THAT(Array(view.positions, 7), ElementsAre(0, 1, 2, 3, 4, 0, 1));
  EXPECT_THAT(Array(view.token_table_row, 7), ElementsAre(0, 0, 0, 0, 0, 1, 1));
  EXPECT_THAT(Array(view.row_begin, 3), ElementsAre(0, 5, 7));
  EXPECT_THAT(Array(view.row_position, 2), ElementsAre(0, 0));
}

TEST_F(StepInputsTest, EachRowHasItsBlockTable) {
  const StepTokensView view = inputs_.view();
  EXPECT_EQ(view.max_blocks_per_row, 40);
  EXPECT_EQ(Array(view.block_table, 2), Array(slots_.block_ids(2).data(), 2));
  EXPECT_EQ(view.block_table[40], slots_.block_ids(4)[0]);
}

TEST_F(StepInputsTest, DrawsComeBeforeScores) {
  ASSERT_EQ(inputs_.n_draws(), 1);
  ASSERT_EQ(inputs_.head_rows().size(), 6u);
  const HeadRow& draw = inputs_.head_rows()[0];
  EXPECT_EQ(draw.token_idx, 6);
  EXPECT_EQ(draw.slot, 4);
  EXPECT_EQ(draw.position, 2);
  EXPECT_EQ(draw.n_generated_tokens, 0);
  EXPECT_EQ(draw.target_token_id, -1);
  for (int32_t i = 0; i < 5; ++i) {
    const HeadRow& score = inputs_.head_rows()[1 + i];
    EXPECT_EQ(score.token_idx, i);
    EXPECT_EQ(score.slot, 2);
    EXPECT_EQ(score.position, i + 1);
    EXPECT_EQ(score.target_token_id, kPrompt[i + 1]);
  }
}

TEST_F(StepInputsTest, LastSampledTokensAreFilledIn) {
  builder_.AddLastSampledRow(4, true);
  builder_.AddRow(2, {15}, {.sample = true, .prompt_logprobs = true});
  Build(builder_.Take());
  EXPECT_THAT(inputs_.token_ids(), ElementsAre(77, 15));
  EXPECT_THAT(Array(inputs_.view().positions, 2), ElementsAre(2, 5));
  ASSERT_EQ(inputs_.head_rows().size(), 2u) << "the last prompt token has no target";
  EXPECT_EQ(inputs_.head_rows()[0].n_generated_tokens, 1);
  EXPECT_EQ(inputs_.head_rows()[1].n_generated_tokens, 0);
}

TEST_F(StepInputsTest, UnknownTargetsAreNotScored) {
  builder_.Close(2);
  builder_.Open(2, 6, {.n_prompt_logprobs = 0});
  builder_.AddRow(2, {10, 11}, {.prompt_logprobs = true, .next_token = -1});
  Build(builder_.Take());
  ASSERT_EQ(inputs_.head_rows().size(), 1u);
  EXPECT_EQ(inputs_.head_rows()[0].target_token_id, 11);
}

TEST(StepInputsLimitsTest, RefusesABlockTableBeyondAnyUse) {
  GroupLimits limits = TinyLimits();
  limits.max_num_seqs = kMaxNumSeqs;
  limits.max_num_batched_tokens = kMaxNumBatchedTokens;
  limits.max_model_len = kMaxModelLen;
  const absl::Status status = CheckStepInputsLimits(limits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("65536 rows x 4194304 blocks"));
}

TEST(MeshPeersTest, AreSymmetricAndComplete) {
  for (const int tp_size : {1, 2, 4}) {
    for (const int pp_size : {1, 2, 3, 4}) {
      std::vector<std::vector<int>> peers;
      for (int rank = 0; rank < tp_size * pp_size; ++rank) {
        peers.push_back(MeshPeers({.stage = rank / tp_size,
                                   .tp_rank = rank % tp_size,
                                   .pp_size = pp_size,
                                   .tp_size = tp_size}));
      }
      for (int a = 0; a < tp_size * pp_size; ++a) {
        EXPECT_THAT(peers[a], testing::Not(testing::Contains(a)));
        for (const int b : peers[a]) EXPECT_THAT(peers[b], testing::Contains(a));
      }
    }
  }
  // Tensor rank 1 of the first of three stages: its group, the next stage, the sampler.
  EXPECT_THAT(MeshPeers({.stage = 0, .tp_rank = 1, .pp_size = 3, .tp_size = 2}),
              ElementsAre(0, 3, 4));
}

}  // namespace
}  // namespace bora
