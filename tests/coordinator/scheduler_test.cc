// The scheduler's rules as golden transcripts (tests/coordinator/transcript.h), and what must hold
// whatever happens to it.
#include "coordinator/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/coordinator/transcript.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

// 4 slots, 16 tokens a plan, 12 blocks of 4 tokens.
GroupLimits Limits() {
  return {.max_num_seqs = 4,
          .max_num_batched_tokens = 16,
          .max_model_len = 40,
          .block_size = 4,
          .n_blocks = 12,
          .vocab_size = 1000};
}

TEST(SchedulerTest, AdmitsFirstComeFirstServedAsSlotsAllow) {
  GroupLimits limits = Limits();
  limits.max_num_seqs = 2;
  Transcript t(limits, 1);
  t.Add(1, 5, 3);
  t.Add(2, 4, 1);
  t.Add(3, 3, 1);
  t.Add(4, 2, 1);
  t.Finish();
  t.ExpectGolden("admission");
}

TEST(SchedulerTest, MixesChunksOfAPromptWithDecodeRows) {
  GroupLimits limits = Limits();
  limits.max_num_batched_tokens = 8;
  Transcript t(limits, 1);
  t.Add(1, 4, 6);
  t.Plan();
  t.Complete();
  t.Add(2, 19, 2);
  t.Add(3, 2, 2);
  t.Finish();
  t.ExpectGolden("chunks_with_decode");
}

TEST(SchedulerTest, DividesDecodeRowsOverTwoStages) {
  Transcript t(Limits(), 2);
  for (const uint64_t handle : {1, 2, 3}) t.Add(handle, 2, 4);
  t.Finish();
  t.ExpectGolden("two_stages");
}

TEST(SchedulerTest, DividesDecodeRowsOverFourStages) {
  GroupLimits limits = Limits();
  limits.max_num_seqs = 6;
  limits.max_num_batched_tokens = 4;
  Transcript t(limits, 4);
  for (const uint64_t handle : {1, 2, 3, 4, 5, 6}) t.Add(handle, 2, 3);
  t.Finish();
  t.ExpectGolden("four_stages");
}

TEST(SchedulerTest, WithoutRunAheadEveryRowGoesOnFromAKnownToken) {
  Transcript t(Limits(), 2, /*run_ahead=*/false);
  for (const uint64_t handle : {1, 2, 3}) t.Add(handle, 2, 4);
  t.Finish();
  t.ExpectGolden("no_run_ahead");
}

TEST(SchedulerTest, WhoEndsHasARowTooManyInFlight) {
  // Sequence 1 is ended by a token that nobody foresaw: its slot and blocks are given away while
  // its last row is in flight, whose result is nobody's.
  GroupLimits limits = Limits();
  limits.max_num_seqs = 1;
  Transcript t(limits, 1);
  t.Add(1, 3, 20);
  t.Add(2, 3, 2);
  t.PlanAll();
  t.Complete();
  t.PlanAll();
  t.Remove(1);
  t.Finish();
  t.ExpectGolden("ended_while_ahead");
}

TEST(SchedulerTest, AHeldSequenceGivesItsSlotToTheNextInTheQueue) {
  GroupLimits limits = Limits();
  limits.max_num_seqs = 1;
  Transcript t(limits, 1);
  t.Add(1, 6, 4);
  t.Plan();
  t.Complete();
  t.Hold(1, true);
  t.Add(2, 3, 3);
  t.Plan();
  t.Hold(1, false);
  t.Finish();
  t.ExpectGolden("held_gives_way");
}

TEST(SchedulerTest, StagesTakeTurnsWhenTheBatchChanges) {
  GroupLimits limits = Limits();
  limits.max_num_seqs = 6;
  Transcript t(limits, 2);
  for (const uint64_t handle : {1, 2, 3, 4, 5}) t.Add(handle, 2, 6);
  t.Plan();
  t.Complete();
  t.PlanAll();
  t.Complete();
  t.PlanAll();
  t.Remove(2);
  t.Complete();
  t.PlanAll();
  t.Add(6, 3, 3);
  t.Hold(4, true);
  t.Complete();
  t.PlanAll();
  t.Hold(4, false);
  t.Finish();
  t.ExpectGolden("turns");
}

TEST(SchedulerTest, KeepsSeveralChunksOfOnePromptInFlight) {
  GroupLimits limits = Limits();
  limits.max_num_batched_tokens = 4;
  Transcript t(limits, 4);
  t.Add(1, 14, 2);
  t.PlanAll();
  // And the first token that is decoded from what follows them.
  EXPECT_EQ(t.scheduler().n_in_flight(), 5);
  t.Finish();
  t.ExpectGolden("chunks_in_flight");
}

TEST(SchedulerTest, GivesSlotsAndBlocksOfRemovedSequencesAway) {
  GroupLimits limits = Limits();
  limits.max_num_seqs = 1;
  Transcript t(limits, 2);
  t.Add(1, 6, 4);
  t.Add(2, 5, 4);
  t.Add(3, 3, 2);
  t.Plan();
  // In flight: its result is dropped, its slot and blocks go to the next.
  t.Remove(1);
  t.Plan();
  t.Complete();
  t.Complete();
  t.Plan();
  t.Remove(2);
  // Removed before it had a slot.
  t.Remove(3);
  t.Add(4, 2, 1);
  t.Finish();
  t.ExpectGolden("reuse");
}

TEST(SchedulerTest, WaitsForBlocksInOrder) {
  // 12 blocks: 7 for sequence 1, 6 for sequence 2, 1 for sequence 3, which does not overtake.
  Transcript t(Limits(), 1);
  t.Add(1, 24, 2);
  t.Add(2, 20, 4);
  t.Add(3, 2, 2);
  t.Finish();
  t.ExpectGolden("waits_for_blocks");
}

TEST(SchedulerTest, SharesWhatOthersHaveComputed) {
  Transcript t(Limits(), 1);
  t.Add(1, 10, 4);
  t.Plan();
  // While it runs: two whole blocks, of what is longer and of what is shorter.
  t.Add(2, 13, 2, -1, 1);
  t.Add(3, 9, 1, -1, 1);
  t.Complete();
  t.PlanAll();
  t.Finish();
  // Afterwards, as long as nobody needs the room. One token at least is computed.
  t.Add(4, 8, 1, -1, 1);
  // Log-probabilities of the prompt have to be computed.
  t.Add(5, 10, 1, 0, 1);
  t.Finish();
  t.ExpectGolden("prefix_cache");
}

TEST(SchedulerTest, SharesNothingAcrossSaltsOrWithWhoDoesNotWantTo) {
  Transcript t(Limits(), 1);
  const auto add = [&t](uint64_t handle, const char* salt, bool prefix_cache) {
    SequenceSpec spec;
    spec.handle = handle;
    spec.prompt_tokens = {1, 2, 3, 4, 5};
    spec.max_tokens = 1;
    spec.cache_salt = salt;
    spec.prefix_cache = prefix_cache;
    t.Add(std::move(spec));
    t.Finish();
  };
  add(1, "", false);
  add(2, "", true);   // nothing is known yet
  add(3, "a", true);  // nor under this salt
  add(4, "a", true);
  add(5, "", true);
  add(6, "", false);
  t.ExpectGolden("prefix_cache_salt");
}

TEST(SchedulerTest, PreemptsTheNewestForOlderOnes) {
  // Twelve blocks: two prompts of four each leave room for a third, and not for what all make.
  Transcript t(Limits(), 1);
  t.Add(1, 16, 10);
  t.Add(2, 16, 10);
  t.Plan();
  t.Complete();
  t.PlanAll();
  t.Complete();
  t.Add(3, 3, 9);
  t.Finish();
  EXPECT_GT(t.scheduler().n_preemptions(), 0);
  t.ExpectGolden("preemption");
}

TEST(SchedulerTest, APreemptedSequenceReportsNothingTwice) {
  // Sequence 2 loses its blocks when all of its prompt has been reported and its last row is in
  // flight.
  GroupLimits limits = Limits();
  limits.max_num_batched_tokens = 3;
  limits.n_blocks = 8;
  Transcript t(limits, 2);
  t.Add(1, 4, 16);
  t.Add(2, 20, 2, 0);
  t.Finish();
  EXPECT_GT(t.scheduler().n_preemptions(), 0);
  t.ExpectGolden("preemption_prompt_logprobs");
}

TEST(SchedulerTest, ASequencePreemptedInItsPromptReportsNothingTwice) {
  // Beside the decode rows of sequence 1, sequence 2 passes its prompt token by token, and loses
  // its blocks when some of the prompt has been reported.
  GroupLimits limits = Limits();
  limits.max_num_batched_tokens = 2;
  limits.n_blocks = 8;
  Transcript t(limits, 1);
  t.Add(1, 4, 24);
  t.Add(2, 20, 2, 0);
  t.Finish();
  EXPECT_GT(t.scheduler().n_preemptions(), 0);
  t.ExpectGolden("preemption_in_prompt");
}

TEST(SchedulerTest, HeldSequencesKeepTheirPlaceAndGetNoRows) {
  GroupLimits limits = Limits();
  limits.max_num_batched_tokens = 8;
  Transcript t(limits, 1);
  t.Add(1, 3, 4);
  t.Add(2, 12, 2);
  t.Plan();
  t.Complete();
  t.Hold(1, true);
  t.Hold(2, true);
  t.PlanAll();
  t.Hold(2, false);
  t.Plan();
  t.Complete();
  t.Hold(1, false);
  t.Finish();
  t.ExpectGolden("held");
}

TEST(SchedulerTest, NamesTheNextTokenOfAChunkForPromptLogprobs) {
  GroupLimits limits = Limits();
  limits.max_num_batched_tokens = 5;
  Transcript t(limits, 1);
  t.Add(1, 1, 3);
  t.Add(2, 9, 1, 0);
  t.Add(3, 1, 1, 2);
  t.Finish();
  t.ExpectGolden("prompt_logprobs");
}

TEST(SchedulerTest, CountsWhatWaitsAndRuns) {
  GroupLimits limits = Limits();
  limits.max_num_seqs = 1;
  Transcript t(limits, 1);
  t.Add(1, 5, 1);
  t.Add(2, 7, 1);
  Scheduler& scheduler = t.scheduler();
  EXPECT_EQ(scheduler.n_waiting(), 2);
  EXPECT_EQ(scheduler.n_waiting_prompt_tokens(), 12);
  EXPECT_FALSE(scheduler.IsRunning(1));
  EXPECT_TRUE(scheduler.Contains(1));
  t.Plan();
  EXPECT_EQ(scheduler.n_waiting(), 1);
  EXPECT_EQ(scheduler.n_waiting_prompt_tokens(), 7);
  EXPECT_EQ(scheduler.n_running(), 1);
  EXPECT_EQ(scheduler.n_in_flight(), 1);
  EXPECT_TRUE(scheduler.IsRunning(1));
  EXPECT_EQ(scheduler.blocks().n_held(), 2);
  t.Remove(2);
  EXPECT_EQ(scheduler.n_waiting(), 0);
  EXPECT_EQ(scheduler.n_waiting_prompt_tokens(), 0);
  EXPECT_FALSE(scheduler.Contains(2));
  t.Finish();
  EXPECT_EQ(scheduler.n_running(), 0);
  EXPECT_EQ(scheduler.blocks().n_held(), 0);
}

TEST(SchedulerTest, IgnoresHandlesItDoesNotKnow) {
  Transcript t(Limits(), 1);
  t.Remove(9);
  t.Hold(9, true);
  EXPECT_FALSE(t.Plan());
}

// The result of a step with two prompts, one of them with prompt log-probabilities: what a test
// changes in it must be found.
class SchedulerResultTest : public testing::Test {
 protected:
  SchedulerResultTest() : scheduler_({.limits = Limits(), .epoch = 5, .n_stages = 2}) {
    for (const uint64_t handle : {1, 2}) {
      SequenceSpec spec;
      spec.handle = handle;
      spec.prompt_tokens = {1, 2, 3};
      spec.max_tokens = 2;
      spec.sampling.n_prompt_logprobs = handle == 2 ? 0 : -1;
      scheduler_.Add(std::move(spec));
    }
    ScriptedGroup group(Limits(),
                        [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 7}; });
    const std::optional<StepPlan> plan = scheduler_.PlanStep();
    EXPECT_TRUE(plan.has_value());
    absl::StatusOr<StepResult> result = group.Execute(*plan);
    EXPECT_TRUE(result.ok()) << result.status();
    result_ = *std::move(result);
  }

  void ExpectRefused(const std::string& message) {
    const auto progress = scheduler_.CompleteStep(result_);
    ASSERT_FALSE(progress.ok());
    EXPECT_EQ(progress.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(progress.status().message()), HasSubstr(message));
  }

  Scheduler scheduler_;
  StepResult result_;
};

TEST_F(SchedulerResultTest, TakesTheResultAsItIs) {
  const auto progress = scheduler_.CompleteStep(result_);
  ASSERT_TRUE(progress.ok()) << progress.status();
  ASSERT_EQ(progress->size(), 2u);
  EXPECT_EQ((*progress)[0].handle, 1u);
  EXPECT_TRUE((*progress)[0].prompt_logprobs.empty());
  EXPECT_EQ((*progress)[1].prompt_logprobs.size(), 2u);
  EXPECT_EQ((*progress)[1].sampled->token_id, 7);
}

TEST_F(SchedulerResultTest, RefusesAnotherStep) {
  result_.step_id = 1;
  ExpectRefused("result of step 1 of epoch 5, expected step 0 of epoch 5");
}

TEST_F(SchedulerResultTest, RefusesAnotherEpoch) {
  result_.epoch = 4;
  ExpectRefused("result of step 0 of epoch 4");
}

TEST_F(SchedulerResultTest, RefusesAResultThatNobodyWaitsFor) {
  ASSERT_TRUE(scheduler_.CompleteStep(result_).ok());
  ExpectRefused("expected step -1");
}

TEST_F(SchedulerResultTest, RefusesMissingTokens) {
  result_.sampled.pop_back();
  ExpectRefused("has 1 sampled tokens and 2 prompt log-probabilities, the plan asked for 2 and 2");
}

TEST_F(SchedulerResultTest, RefusesAdditionalPromptLogprobs) {
  result_.prompt_logprobs.push_back(result_.prompt_logprobs.back());
  ExpectRefused("3 prompt log-probabilities, the plan asked for 2 and 2");
}

TEST_F(SchedulerResultTest, RefusesATokenOfAnotherSlot) {
  std::swap(result_.sampled[0].slot, result_.sampled[1].slot);
  ExpectRefused("a token of slot 1 at position 3 where the plan asked for slot 0");
}

TEST_F(SchedulerResultTest, RefusesATokenOfAnotherPosition) {
  result_.sampled[1].position = 9;
  ExpectRefused("slot 1 at position 9 where the plan asked for slot 1, position 3");
}

TEST_F(SchedulerResultTest, RefusesPromptLogprobsOfAnotherPosition) {
  std::swap(result_.prompt_logprobs[0], result_.prompt_logprobs[1]);
  ExpectRefused("slot 1 at position 2 where the plan asked for slot 1, position 1");
}

}  // namespace
}  // namespace bora
