// How rows, next tokens and what is remembered of them are put together.
#include "coordinator/scheduler/step_plan_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Admitted to `slot`, with nothing planned yet.
Sequence Admitted(int32_t slot, std::vector<int32_t> prompt, int32_t n_prompt_logprobs = -1) {
  Sequence sequence;
  sequence.spec.handle = 100 + slot;
  sequence.spec.max_tokens = 1;
  sequence.spec.sampling.n_prompt_logprobs = n_prompt_logprobs;
  sequence.slot = slot;
  sequence.n_prompt = sequence.prefill_end = static_cast<int32_t>(prompt.size());
  sequence.own_tokens = std::move(prompt);
  return sequence;
}

TEST(StepPlanBuilderTest, ARowSamplesIfItEndsThePrefillOrDecodes) {
  StepPlanBuilder builder(1, 7, {3});
  Sequence sequence = Admitted(0, {10, 11, 12, 13});
  EXPECT_FALSE(builder.AddRow(sequence, 3));
  sequence = Admitted(1, {20, 21, 22});
  sequence.n_planned = 1;
  EXPECT_TRUE(builder.AddRow(sequence, 2));
  sequence.n_planned = 3;
  sequence.slot = 2;
  EXPECT_TRUE(builder.AddRow(sequence, 1));
  EXPECT_EQ(builder.work().n_tokens, 6);
  const StepInFlight step = builder.TakeStepInFlight(5);
  EXPECT_EQ(step.step_id, 7);
  EXPECT_EQ(step.predicted_us, 5);
  ASSERT_EQ(step.rows.size(), 3u);
  EXPECT_EQ(step.rows[1].handle, 101u);
  EXPECT_EQ(step.rows[1].position, 1);
  const StepPlan plan = builder.TakePlan();
  EXPECT_EQ(plan.epoch, 1);
  EXPECT_EQ(plan.step_id, 7);
  EXPECT_THAT(plan.closed, ElementsAre(3));
  EXPECT_THAT(plan.tokens, ElementsAre(10, 11, 12, 21, 22));
  EXPECT_EQ(plan.rows[1].token_begin, 3);
  EXPECT_TRUE(plan.rows[2].use_last_sampled);
  EXPECT_THAT(plan.next_tokens, IsEmpty());
}

TEST(StepPlanBuilderTest, EveryRowHasANextTokenIfOneReportsPromptLogprobs) {
  StepPlanBuilder builder(1, 0, {});
  builder.AddRow(Admitted(0, {10, 11}), 2);
  builder.AddRow(Admitted(1, {20, 21, 22}, 0), 2);
  builder.AddRow(Admitted(2, {30}), 1);
  builder.AddRow(Admitted(3, {40, 41}, 0), 2);
  EXPECT_EQ(builder.rows()[1].n_prompt_logprobs, 2);
  // The last token of a prompt predicts no token of the prompt.
  EXPECT_EQ(builder.rows()[3].n_prompt_logprobs, 1);
  EXPECT_THAT(builder.TakePlan().next_tokens, ElementsAre(-1, 22, -1, -1));
}

TEST(StepPlanBuilderTest, OpensWithCachedBlocksAndKnownTokensForPenalties) {
  StepPlanBuilder builder(1, 0, {});
  Sequence sequence = Admitted(0, {1, 2, 3, 4, 5, 6});
  sequence.n_prompt = 5;
  sequence.n_planned = 4;
  sequence.block_ids = {8, 9};
  sequence.spec.sampling.repetition_penalty = 1.5F;
  builder.OpenSlot(sequence);
  builder.GrantBlock(sequence, 3);
  const StepPlan plan = builder.TakePlan();
  ASSERT_EQ(plan.opened.size(), 1u);
  EXPECT_EQ(plan.opened[0].n_generated_tokens, 1);
  EXPECT_EQ(plan.opened[0].n_cached_tokens, 4);
  EXPECT_EQ(plan.opened[0].known_tokens, sequence.own_tokens);
  EXPECT_THAT(plan.grants,
              ElementsAre(BlockGrant{0, 0, 8}, BlockGrant{0, 1, 9}, BlockGrant{0, 2, 3}));
}

TEST(StepPlanBuilderTest, KnownTokensOfSlotsWithPenaltiesFitAMessage) {
  StepPlanBuilder builder(1, 0, {});
  Sequence sequence = Admitted(0, std::vector<int32_t>((4 << 20) - 1));
  sequence.spec.sampling.repetition_penalty = 1.5F;
  EXPECT_TRUE(builder.HasRoomToOpen(sequence));
  builder.OpenSlot(sequence);
  Sequence other = Admitted(1, {1, 2});
  EXPECT_TRUE(builder.HasRoomToOpen(other));  // carries none
  other.spec.sampling.repetition_penalty = 1.5F;
  EXPECT_FALSE(builder.HasRoomToOpen(other));
  other.own_tokens = {1};
  EXPECT_TRUE(builder.HasRoomToOpen(other));
}

}  // namespace
}  // namespace bora
