// How many blocks a waiting sequence needs, and how long a refusal is remembered.
#include "coordinator/scheduler/admission_control.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

namespace bora {
namespace {

// 8 blocks of 4 tokens.
class AdmissionControlTest : public testing::Test {
 protected:
  // A sequence with the prompt 0, 1, 2, ...
  Sequence* Make(int32_t n_prompt, int32_t max_tokens) {
    auto sequence = std::make_unique<Sequence>();
    sequence->spec.handle = sequences_.size() + 1;
    std::vector<int32_t> prompt(n_prompt);
    std::iota(prompt.begin(), prompt.end(), 0);
    sequence->spec.prompt_tokens = std::move(prompt);
    sequence->spec.max_tokens = max_tokens;
    sequence->n_prompt = n_prompt;
    sequence->age.order = sequences_.size();
    sequence->tenant = &tenant_;
    return sequences_.emplace_back(std::move(sequence)).get();
  }
  // Takes n blocks as if a sequence held them.
  std::vector<int32_t> Take(int32_t n) {
    std::vector<int32_t> block_ids;
    for (int32_t i = 0; i < n; ++i) block_ids.push_back(blocks_.Allocate());
    return block_ids;
  }
  // Makes block_ids known as the beginning of the prompt of every sequence.
  void Publish(const std::vector<int32_t>& block_ids) {
    BlockPool::ContentId content = BlockPool::kNoContent;
    std::vector<int32_t> tokens(4);
    for (size_t i = 0; i < block_ids.size(); ++i) {
      std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(4 * i));
      content = blocks_.Publish(block_ids[i], "", content, tokens);
    }
  }

  Tenant tenant_;
  BlockPool blocks_{8, 4};
  RunningSequences running_{4};
  AdmissionControl admission_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

TEST_F(AdmissionControlTest, ASharedBlockIsNeededOnlyIfNoSequenceHoldsIt) {
  const Sequence& sequence = *Make(9, 1);
  EXPECT_EQ(admission_.Fit(sequence, running_, blocks_)->n_available_blocks, 3);
  const std::vector<int32_t> block_ids = Take(2);
  Publish(block_ids);
  const auto held = admission_.Fit(sequence, running_, blocks_);
  EXPECT_EQ(held->n_available_blocks, 1);
  EXPECT_EQ(held->cached.block_ids, block_ids);
  blocks_.Release(block_ids);
  const auto cached = admission_.Fit(sequence, running_, blocks_);
  EXPECT_EQ(cached->n_available_blocks, 3);
  EXPECT_EQ(cached->cached.block_ids, block_ids);
}

TEST_F(AdmissionControlTest, LeavesRunningSequencesTheirPrefillsAndABlockEach) {
  Sequence* running = Make(9, 20);
  running_.Add(running);
  running->prefill_end = 9;
  EXPECT_EQ(admission_.FreeBlocks(running_, blocks_), 8 - 3 - 1);
  running->n_planned = 9;
  running->block_ids = Take(3);
  EXPECT_EQ(admission_.FreeBlocks(running_, blocks_), 5 - 1);
}

TEST_F(AdmissionControlTest, ARefusalIsRememberedForSixteenPlans) {
  const Sequence& sequence = *Make(12, 1);
  const std::vector<int32_t> block_ids = Take(6);
  EXPECT_FALSE(admission_.Fit(sequence, running_, blocks_).has_value());
  EXPECT_TRUE(admission_.IsRefused(sequence, running_, blocks_));
  // With its prefix known it needs one block, which is noticed when it is looked up again.
  Publish({block_ids[0], block_ids[1]});
  for (int plan = 0; plan < 16; ++plan) {
    ASSERT_FALSE(admission_.Fit(sequence, running_, blocks_).has_value()) << plan;
  }
  EXPECT_TRUE(admission_.Fit(sequence, running_, blocks_).has_value());
}

TEST_F(AdmissionControlTest, ARefusedSequenceFitsAsSoonAsItsBlocksAreFree) {
  const Sequence& sequence = *Make(12, 1);
  const std::vector<int32_t> block_ids = Take(6);
  EXPECT_FALSE(admission_.Fit(sequence, running_, blocks_).has_value());
  blocks_.Release(block_ids);
  EXPECT_FALSE(admission_.IsRefused(sequence, running_, blocks_));
  EXPECT_TRUE(admission_.Fit(sequence, running_, blocks_).has_value());
}

TEST_F(AdmissionControlTest, PreemptionsRaiseTheGrowthThatIsExpectedAndPlansLowerIt) {
  // 1 block now, up to 8 at its end.
  const Sequence& sequence = *Make(4, 28);
  const auto n_needed = [&] {
    return admission_.Fit(sequence, running_, blocks_)->n_available_blocks;
  };
  EXPECT_EQ(n_needed(), 1);
  for (int i = 0; i < 4; ++i) admission_.RaiseGrowth();
  EXPECT_EQ(n_needed(), 1 + 3);
  for (int i = 0; i < 9; ++i) admission_.RaiseGrowth();
  EXPECT_EQ(n_needed(), 8);
  for (int i = 0; i < 140; ++i) admission_.LowerGrowth();
  EXPECT_EQ(n_needed(), 1 + 3);
}

}  // namespace
}  // namespace bora
