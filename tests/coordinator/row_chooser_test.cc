// How many prompt tokens a plan takes; which rows it gets is shown by the golden transcripts.
#include "coordinator/scheduler/row_chooser.h"

#include <gtest/gtest.h>

namespace bora {
namespace {

// A step takes 10 us a token.
StepCostModel LinearModel() {
  StepCostModel model(1024);
  for (int round = 0; round < 50; ++round) {
    for (int64_t n_tokens = 1; n_tokens <= 1024; n_tokens *= 2) {
      StepWork work;
      work.n_tokens = n_tokens;
      model.Observe(work, 10.0 * static_cast<double>(n_tokens));
    }
  }
  return model;
}

class RowChooserTest : public testing::Test {
 protected:
  RowChooserTest() {
    decoding_.tenant = &tenant_;
    running_.Add(&decoding_);
    running_.BeginDecoding(&decoding_);
  }

  Tenant tenant_;
  Sequence decoding_;
  BlockPool blocks_{8, 4};
  RunningSequences running_{4};
  StepCostModel cost_model_ = LinearModel();
  RowSources sources_{running_, blocks_, cost_model_};
};

TEST_F(RowChooserTest, PromptsGetWhatFitsTheStepTimeBesideDecodeRows) {
  RowChooser chooser({.n_plan_tokens_max = 1024, .step_time_budget_us = 1005});
  EXPECT_EQ(chooser.BeginPlan(0, 0, sources_), 1024);
  StepWork work;
  work.n_tokens = 30;
  EXPECT_NEAR(chooser.FitTokens(work, {0, 1000, true}, cost_model_), 70, 1);
  EXPECT_EQ(chooser.FitTokens(work, {0, 50, true}, cost_model_), 50);
}

TEST_F(RowChooserTest, TheFirstChunkGetsSixteenTokensWhateverTheyTake) {
  RowChooser chooser({.n_plan_tokens_max = 1024, .step_time_budget_us = 100});
  chooser.BeginPlan(0, 0, sources_);
  StepWork work;
  work.n_tokens = 30;
  EXPECT_EQ(chooser.FitTokens(work, {0, 1000, true}, cost_model_), 16);
  EXPECT_EQ(chooser.FitTokens(work, {0, 5, true}, cost_model_), 5);
  EXPECT_EQ(chooser.FitTokens(work, {0, 1000, false}, cost_model_), 0);
}

TEST_F(RowChooserTest, WithoutDecodingSequencesNoStepTimeLimitsPrompts) {
  decoding_.held = true;
  RowChooser chooser({.n_plan_tokens_max = 1024, .step_time_budget_us = 100});
  chooser.BeginPlan(0, 0, sources_);
  EXPECT_EQ(chooser.FitTokens({}, {0, 1000, true}, cost_model_), 1000);
}

TEST_F(RowChooserTest, TheMicroBatchesOfARoundShareThePrompts) {
  RowChooser chooser({.n_stages = 4, .n_plan_tokens_max = 1024});
  // One decode row and a quarter of the prompt tokens.
  EXPECT_EQ(chooser.BeginPlan(0, 400, sources_), 1 + 100);
  // Less is waiting by the second plan of the round, and its part is the same.
  EXPECT_EQ(chooser.BeginPlan(1, 300, sources_), 1 + 100);
  // The next round divides what is left then; no part is smaller than a chunk.
  EXPECT_EQ(chooser.BeginPlan(4, 40, sources_), 1 + 16);
  // More than the round has been divided for arrives: it is divided again.
  EXPECT_EQ(chooser.BeginPlan(5, 4000, sources_), 1 + 1000);
}

}  // namespace
}  // namespace bora
