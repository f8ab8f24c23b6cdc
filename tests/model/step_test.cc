// Each invariant of a plan has one test that breaks exactly that invariant, and every message names
// what is wrong.
#include "model/step/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "model/step/sampling_fields.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

constexpr GroupLimits kLimits = {.max_num_seqs = 4,
                                 .max_num_batched_tokens = 16,
                                 .max_model_len = 20,
                                 .block_size = 4,
                                 .n_blocks = 8,
                                 .vocab_size = 100};

SlotOpen Open(int32_t slot, int32_t n_prompt_tokens) {
  return {.slot = slot, .n_prompt_tokens = n_prompt_tokens};
}

// Opens slots 1 and 3 with prompts of 5 and 3 tokens and passes all of them through.
StepPlan GoodPlan() {
  StepPlan plan;
  plan.opened = {Open(1, 5), Open(3, 3)};
  plan.grants = {{1, 0, 6}, {1, 1, 2}, {3, 0, 0}};
  plan.rows = {{.slot = 3, .position = 0, .n_tokens = 3, .token_begin = 0, .sample = true},
               {.slot = 1, .position = 0, .n_tokens = 5, .token_begin = 3, .sample = true}};
  plan.tokens = {1, 2, 3, 10, 11, 12, 13, 99};
  return plan;
}

// Continues GoodPlan() with one decode row of slot 3.
StepPlan NextPlan() {
  StepPlan plan;
  plan.step_id = 1;
  plan.rows = {{.slot = 3, .position = 3, .n_tokens = 1, .use_last_sampled = true, .sample = true}};
  return plan;
}

void ExpectInvalid(const StepPlan& plan, const std::string& message) {
  const absl::Status status = ValidatePlan(plan, kLimits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}

void ExpectLimitsInvalid(const GroupLimits& limits, const std::string& message) {
  const absl::Status status = ValidateLimits(limits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}

// Applies GoodPlan(), then expects `plan` to be valid by itself and refused by the tracker.
void ExpectRefusedAfterGoodPlan(const StepPlan& plan, const std::string& message) {
  SlotTracker tracker(kLimits);
  ASSERT_TRUE(tracker.Apply(GoodPlan()).ok());
  ASSERT_TRUE(ValidatePlan(plan, kLimits).ok()) << ValidatePlan(plan, kLimits);
  const absl::Status status = tracker.Apply(plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}

TEST(ValidateLimitsTest, AcceptsTheLimitsOfTheseTests) {
  EXPECT_TRUE(ValidateLimits(kLimits).ok());
}

TEST(ValidateLimitsTest, RefusesEachLimitOutOfRange) {
  GroupLimits limits = kLimits;
  limits.max_num_seqs = 0;
  ExpectLimitsInvalid(limits, "max_num_seqs: 0 is not in [1, 65536]");
  limits = kLimits;
  limits.max_num_batched_tokens = kMaxNumBatchedTokens + 1;
  ExpectLimitsInvalid(limits, "max_num_batched_tokens: 1048577");
  limits = kLimits;
  limits.max_model_len = -1;
  ExpectLimitsInvalid(limits, "max_model_len: -1");
  limits = kLimits;
  limits.block_size = 12;
  ExpectLimitsInvalid(limits, "block_size: 12 is not a power of two");
  limits = kLimits;
  limits.n_blocks = 0;
  ExpectLimitsInvalid(limits, "n_blocks: 0");
  limits = kLimits;
  limits.vocab_size = 0;
  ExpectLimitsInvalid(limits, "vocab_size: 0");
}

TEST(ValidatePlanTest, AcceptsAGoodPlanAndAnEmptyOne) {
  EXPECT_TRUE(ValidatePlan(GoodPlan(), kLimits).ok()) << ValidatePlan(GoodPlan(), kLimits);
  EXPECT_TRUE(ValidatePlan(StepPlan{}, kLimits).ok());
}

TEST(ValidatePlanTest, RefusesNegativeEpochOrStepId) {
  StepPlan plan = GoodPlan();
  plan.epoch = -1;
  ExpectInvalid(plan, "epoch -1");
  plan = GoodPlan();
  plan.step_id = -2;
  ExpectInvalid(plan, "step_id -2");
}

TEST(ValidatePlanTest, RefusesSlotsOutOfRange) {
  StepPlan plan = GoodPlan();
  plan.closed = {4};
  ExpectInvalid(plan, "plan closed[0]: 4 is not in [0, 4)");
  plan = GoodPlan();
  plan.opened[1].slot = -1;
  ExpectInvalid(plan, "plan opened[1].slot: -1 is not in [0, 4)");
  plan = GoodPlan();
  plan.grants[2].slot = 4;
  ExpectInvalid(plan, "plan grants[2].slot: 4 is not in [0, 4)");
  plan = GoodPlan();
  plan.rows[0].slot = INT32_MAX;
  ExpectInvalid(plan, "plan rows[0].slot: 2147483647 is not in [0, 4)");
}

TEST(ValidatePlanTest, RefusesTheSameSlotTwiceInAList) {
  StepPlan plan = GoodPlan();
  plan.closed = {2, 2};
  ExpectInvalid(plan, "plan closed[1]: 2 occurs twice");
  plan = GoodPlan();
  plan.opened[1].slot = 1;
  ExpectInvalid(plan, "plan opened[1].slot: 1 occurs twice");
  plan = GoodPlan();
  plan.rows[1].slot = 3;
  ExpectInvalid(plan, "plan rows[1].slot: 3 occurs twice");
}

TEST(ValidatePlanTest, RefusesPromptLengthsOutOfRange) {
  StepPlan plan = GoodPlan();
  plan.opened[0].n_prompt_tokens = 0;
  ExpectInvalid(plan, "plan opened[0].n_prompt_tokens: 0 is not in [1, 21)");
  plan = GoodPlan();
  plan.opened[0].n_generated_tokens = 16;
  ExpectInvalid(plan, "plan opened[0].n_generated_tokens: 16 is not in [0, 16)");
}

TEST(ValidatePlanTest, RefusesSamplingParametersOutOfRange) {
  const auto expect = [](SamplingParams sampling, const std::string& message) {
    StepPlan plan = GoodPlan();
    plan.opened[1].sampling = sampling;
    ExpectInvalid(plan, message);
  };
  expect({.temperature = -0.5f}, "plan opened[1].temperature: -0.5");
  expect({.temperature = std::numeric_limits<float>::infinity()}, "temperature: inf");
  expect({.temperature = std::numeric_limits<float>::quiet_NaN()}, "temperature: nan");
  expect({.top_p = 0}, "top_p: 0 is not in (0, 1]");
  expect({.top_p = std::numeric_limits<float>::quiet_NaN()}, "top_p: nan");
  expect({.top_k = -1}, "top_k: -1");
  expect({.min_p = 1.5f}, "min_p: 1.5 is not in [0, 1]");
  expect({.repetition_penalty = 0}, "repetition_penalty: 0 is not in [0.01, 100]");
  expect({.repetition_penalty = std::numeric_limits<float>::quiet_NaN()},
         "repetition_penalty: nan");
  expect({.frequency_penalty = 2.5f}, "frequency_penalty: 2.5 is not in [-2, 2]");
  expect({.presence_penalty = -3}, "presence_penalty: -3 is not in [-2, 2]");
  expect({.n_logprobs = 21}, "n_logprobs: 21 is not in [-1, 21)");
  expect({.n_prompt_logprobs = -2}, "n_prompt_logprobs: -2");
  expect({.min_tokens = 21}, "min_tokens: 21");
  expect({.stop_token_ids = {5, 100}}, "stop_token_ids: 100 is not in [0, 100)");
  expect({.stop_token_ids = {5, 5}}, "stop_token_ids: 5 follows 5");
  expect({.stop_token_ids = std::vector<int32_t>(65, 1)}, "stop_token_ids.size: 65");
}

TEST(ValidatePlanTest, HoldsEverySamplingParameterToItsRange) {
  ForEachSamplingField([](const auto& field) {
    using Value = std::remove_const_t<decltype(field.low)>;
    const auto sampling = [&field](Value value) {
      SamplingParams params;
      params.*field.member = value;
      return params;
    };
    StepPlan plan = GoodPlan();
    plan.opened[1].sampling = sampling(field.high);
    // Penalties need the tokens that they count.
    if (plan.opened[1].sampling.has_penalties()) {
      plan.opened[1].known_tokens.resize(plan.opened[1].n_prompt_tokens +
                                         plan.opened[1].n_generated_tokens);
    }
    EXPECT_EQ(ValidatePlan(plan, kLimits), absl::OkStatus()) << field.name;
    plan.opened[1].sampling = sampling(field.high + 1);
    ExpectInvalid(plan, absl::StrCat("plan opened[1].", field.name, ": "));
    plan.opened[1].sampling = sampling(field.low - 1);
    ExpectInvalid(plan, absl::StrCat(" is not in ", field.RangeText()));
  });
}

TEST(ValidatePlanTest, PenaltiesComeWithTheKnownTokens) {
  StepPlan plan = GoodPlan();
  SlotOpen& open = plan.opened[1];
  open.n_generated_tokens = 1;
  open.sampling.presence_penalty = 1;
  ExpectInvalid(plan, "plan opened[1].known_tokens.size: 0 is not 4");
  open.known_tokens = {0, 99, 5, 99};
  EXPECT_TRUE(ValidatePlan(plan, kLimits).ok());
  open.known_tokens[3] = 100;
  ExpectInvalid(plan, "plan opened[1].known_tokens: 100 is not in [0, 100)");
  open.known_tokens[3] = 99;
  open.sampling.presence_penalty = 0;
  ExpectInvalid(plan, "plan opened[1].known_tokens.size: 4 is not 0");
}

TEST(ValidatePlanTest, RefusesGrantsOutOfRange) {
  StepPlan plan = GoodPlan();
  plan.grants[0].block_idx = 5;
  ExpectInvalid(plan, "plan grants[0].block_idx: 5 is not in [0, 5)");
  plan = GoodPlan();
  plan.grants[1].block_id = 8;
  ExpectInvalid(plan, "plan grants[1].block_id: 8 is not in [0, 8)");
}

TEST(ValidatePlanTest, RefusesCachedTokensThatAreNotWholeBlocks) {
  StepPlan plan = GoodPlan();
  plan.opened[1].n_cached_tokens = 3;
  ExpectInvalid(plan, "plan opened[1].n_cached_tokens: 3 is not a multiple of block_size 4");
  plan.opened[1].n_cached_tokens = 20;
  ExpectInvalid(plan, "plan opened[1].n_cached_tokens: 20 is not in [0, 20)");
}

TEST(ValidatePlanTest, RefusesRowsOutsideTheSequence) {
  StepPlan plan = GoodPlan();
  plan.rows[0].position = -1;
  ExpectInvalid(plan, "plan rows[0].position: -1 is not in [0, 20)");
  plan = GoodPlan();
  plan.rows[0].n_tokens = 0;
  ExpectInvalid(plan, "plan rows[0].n_tokens: 0 is not in [1, 21)");
  plan = GoodPlan();
  plan.rows[0].position = 18;
  ExpectInvalid(plan, "plan rows[0].n_tokens: 3 is not in [1, 3)");
  plan = GoodPlan();
  plan.rows[0].n_tokens = INT32_MAX;
  ExpectInvalid(plan, "plan rows[0].n_tokens: 2147483647");
}

TEST(ValidatePlanTest, RefusesToSampleBeyondTheContext) {
  StepPlan plan = GoodPlan();
  plan.rows[0].position = 17;
  ExpectInvalid(plan, "would make a token at position 20, max_model_len is 20");
}

TEST(ValidatePlanTest, RefusesMoreTokensThanAStepMayHave) {
  StepPlan plan = GoodPlan();
  plan.rows[1].n_tokens = 14;
  ExpectInvalid(plan, "17 tokens, max_num_batched_tokens is 16");
}

TEST(ValidatePlanTest, RefusesTokenListsThatDoNotMatchTheRows) {
  StepPlan plan = GoodPlan();
  plan.rows[1].token_begin = 2;
  ExpectInvalid(plan, "plan rows[1].token_begin: 2 is not the sum of the tokens before, 3");
  plan = GoodPlan();
  plan.tokens.push_back(1);
  ExpectInvalid(plan, "9 are given, rows need 8");
  plan = GoodPlan();
  plan.tokens.pop_back();
  ExpectInvalid(plan, "7 are given, rows need 8");
}

TEST(ValidatePlanTest, RefusesTokensOutsideTheVocabulary) {
  StepPlan plan = GoodPlan();
  plan.tokens[7] = 100;
  ExpectInvalid(plan, "plan tokens[7]: 100 is not in [0, 100)");
  plan.tokens[7] = -1;
  ExpectInvalid(plan, "plan tokens[7]: -1 is not in [0, 100)");
}

TEST(ValidatePlanTest, RefusesLastSampledRowsThatAreNotOneToken) {
  StepPlan plan = NextPlan();
  plan.rows[0].n_tokens = 2;
  ExpectInvalid(plan, "plan rows[0].n_tokens: 2 must be 1 with use_last_sampled");
}

TEST(ValidatePlanTest, RefusesPromptLogprobsOfALastSampledRow) {
  StepPlan plan = NextPlan();
  plan.rows[0].prompt_logprobs = true;
  plan.next_tokens = {-1};
  ExpectInvalid(plan, "plan rows[0].prompt_logprobs");
}

TEST(ValidatePlanTest, RefusesNextTokensThatDoNotMatchTheRows) {
  StepPlan plan = GoodPlan();
  plan.next_tokens = {-1, -1};
  ExpectInvalid(plan, "next_tokens: 2 are given, rows need 0");
  plan = GoodPlan();
  plan.rows[0].prompt_logprobs = true;
  ExpectInvalid(plan, "next_tokens: 0 are given, rows need 2");
  plan.next_tokens = {100, -1};
  ExpectInvalid(plan, "plan next_tokens[0]: 100 is not in [-1, 100)");
  plan.next_tokens = {7, 7};
  ExpectInvalid(plan, "plan next_tokens[1]: 7 must be -1");
}

TEST(SlotTrackerTest, AppliesPlansInOrder) {
  SlotTracker tracker(kLimits);
  ASSERT_TRUE(tracker.Apply(GoodPlan()).ok());
  const absl::Status status = tracker.Apply(NextPlan());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(tracker.block_ids(1), testing::ElementsAre(6, 2));
  EXPECT_EQ(tracker.n_prompt_tokens(1), 5);
}

TEST(SlotTrackerTest, ReusesSlotAndBlocksInThePlanThatClosesThem) {
  SlotTracker tracker(kLimits);
  ASSERT_TRUE(tracker.Apply(GoodPlan()).ok());
  StepPlan plan = GoodPlan();
  plan.step_id = 1;
  plan.closed = {3, 1};
  const absl::Status status = tracker.Apply(plan);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SlotTrackerTest, RefusesAPlanThatIsInvalidByItself) {
  SlotTracker tracker(kLimits);
  StepPlan plan = GoodPlan();
  plan.rows[0].slot = 1000;
  EXPECT_EQ(tracker.Apply(plan).code(), absl::StatusCode::kInvalidArgument);
}

TEST(SlotTrackerTest, RefusesGapsInStepIds) {
  StepPlan plan = NextPlan();
  plan.step_id = 2;
  ExpectRefusedAfterGoodPlan(plan, "plan step_id: 2, expected 1");
}

TEST(SlotTrackerTest, RefusesToCloseAClosedSlot) {
  StepPlan plan = NextPlan();
  plan.closed = {0};
  ExpectRefusedAfterGoodPlan(plan, "closes slot 0: not open");
}

TEST(SlotTrackerTest, RefusesToOpenAnOpenSlot) {
  StepPlan plan = NextPlan();
  plan.opened = {Open(3, 1)};
  ExpectRefusedAfterGoodPlan(plan, "opens slot 3: is open");
}

TEST(SlotTrackerTest, RefusesAGrantToAClosedSlot) {
  StepPlan plan = NextPlan();
  plan.grants = {{0, 0, 5}};
  ExpectRefusedAfterGoodPlan(plan, "grants block 5 to slot 0: not open");
}

TEST(SlotTrackerTest, RefusesAGapInASlotsBlocks) {
  StepPlan plan = NextPlan();
  plan.grants = {{3, 2, 5}};
  ExpectRefusedAfterGoodPlan(plan, "grants slot 3 block_idx 2, expected 1");
}

TEST(SlotTrackerTest, RefusesABlockThatAnotherSlotHas) {
  StepPlan plan = NextPlan();
  plan.grants = {{3, 1, 6}};
  ExpectRefusedAfterGoodPlan(plan, "grants block 6 to slot 3: another slot has it");
  plan.grants = {{3, 1, 5}, {3, 2, 5}};
  ExpectRefusedAfterGoodPlan(plan, "grants block 5 to slot 3: another slot has it");
}

// Slot 0 begins behind block 6, the first of slot 1.
StepPlan SharingPlan() {
  StepPlan plan;
  plan.step_id = 1;
  plan.opened = {Open(0, 6)};
  plan.opened[0].n_cached_tokens = 4;
  plan.grants = {{0, 0, 6}, {0, 1, 1}};
  plan.rows = {{.slot = 0, .position = 4, .n_tokens = 2, .sample = true}};
  plan.tokens = {7, 8};
  return plan;
}

TEST(SlotTrackerTest, SharesAFullBlockWhileItsWriterLivesAndAfterwards) {
  SlotTracker tracker(kLimits);
  ASSERT_TRUE(tracker.Apply(GoodPlan()).ok());
  absl::Status status = tracker.Apply(SharingPlan());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(tracker.block_ids(0), testing::ElementsAre(6, 1));
  // Both are gone; what is in the block is still there.
  StepPlan plan = SharingPlan();
  plan.step_id = 2;
  plan.closed = {0, 1};
  status = tracker.Apply(plan);
  EXPECT_TRUE(status.ok()) << status;
  // A new writer: it is not.
  plan.step_id = 3;
  plan.closed = {0};
  plan.opened = {Open(1, 5), plan.opened[0]};
  plan.grants = {{1, 0, 6}, {0, 0, 6}, {0, 1, 1}};
  status = tracker.Apply(plan);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("grants block 6 to slot 0: it holds 0 of 4 cached tokens"));
}

TEST(SlotTrackerTest, RefusesToShareABlockThatIsNotFull) {
  StepPlan plan = SharingPlan();
  plan.grants[0].block_id = 2;  // one token of slot 1
  ExpectRefusedAfterGoodPlan(plan, "grants block 2 to slot 0: it holds 1 of 4 cached tokens");
  plan.grants[0].block_id = 7;  // never granted
  ExpectRefusedAfterGoodPlan(plan, "grants block 7 to slot 0: it holds 0 of 4 cached tokens");
}

TEST(SlotTrackerTest, RefusesToWriteASharedBlock) {
  StepPlan plan = SharingPlan();
  plan.opened[0].n_cached_tokens = 0;
  ExpectRefusedAfterGoodPlan(plan, "grants block 6 to slot 0: another slot has it");
  plan = SharingPlan();
  plan.rows[0].position = 3;
  ExpectRefusedAfterGoodPlan(plan, "slot 0: position 3, the slot has 4 tokens");
}

TEST(SlotTrackerTest, RefusesARowOfAClosedSlot) {
  StepPlan plan = NextPlan();
  plan.closed = {3};
  ExpectRefusedAfterGoodPlan(plan, "slot 3: the slot is not open");
}

TEST(SlotTrackerTest, RefusesARowThatLeavesAGapOrRepeats) {
  StepPlan plan = NextPlan();
  plan.rows[0].position = 4;
  ExpectRefusedAfterGoodPlan(plan, "slot 3: position 4, the slot has 3 tokens");
  plan.rows[0].position = 2;
  ExpectRefusedAfterGoodPlan(plan, "slot 3: position 2, the slot has 3 tokens");
}

TEST(SlotTrackerTest, RefusesARowWithoutBlocks) {
  StepPlan plan = NextPlan();
  plan.rows[0] = {.slot = 3, .position = 3, .n_tokens = 2};
  plan.tokens = {1, 1};
  ExpectRefusedAfterGoodPlan(plan, "slot 3: ends at 5, its 1 blocks hold 4");
}

TEST(SlotTrackerTest, RefusesALastSampledTokenThatDoesNotExist) {
  StepPlan first = GoodPlan();
  first.rows[0].sample = false;
  SlotTracker tracker(kLimits);
  ASSERT_TRUE(tracker.Apply(first).ok());
  const absl::Status status = tracker.Apply(NextPlan());
  EXPECT_THAT(std::string(status.message()), HasSubstr("the row before sampled no token"));
}

TEST(SlotTrackerTest, ForgetsTheSampledTokenWhenASlotIsReopened) {
  StepPlan plan;
  plan.step_id = 1;
  plan.closed = {3};
  plan.opened = {Open(3, 1)};
  plan.grants = {{3, 0, 0}};
  plan.rows = {{.slot = 3, .position = 0, .n_tokens = 1, .use_last_sampled = true}};
  ExpectRefusedAfterGoodPlan(plan, "the row before sampled no token");
}

TEST(SlotTrackerTest, RefusesToSampleInsideThePrompt) {
  StepPlan plan = GoodPlan();
  plan.rows[1].n_tokens = 4;
  plan.tokens.pop_back();
  SlotTracker tracker(kLimits);
  EXPECT_THAT(std::string(tracker.Apply(plan).message()),
              HasSubstr("slot 1: samples position 4 inside the prompt of 5"));
}

TEST(SlotTrackerTest, RefusesPromptLogprobsThatWereNotAskedFor) {
  StepPlan plan = GoodPlan();
  plan.rows[0].prompt_logprobs = true;
  plan.next_tokens = {-1, -1};
  SlotTracker tracker(kLimits);
  EXPECT_THAT(std::string(tracker.Apply(plan).message()),
              HasSubstr("opened with n_prompt_logprobs -1"));
}

}  // namespace
}  // namespace bora
