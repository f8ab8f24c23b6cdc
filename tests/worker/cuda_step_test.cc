#include "worker/cuda/cuda_step.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

#include "kernels/embed.h"
#include "tests/worker/tiny_model.h"

namespace bora {
namespace {

constexpr int32_t kPaddingSlot = 6;

// Two rows: a chunk of three tokens in slot 4, and in slot 1 the token that was drawn last.
StepPlan TwoRows() {
  StepPlan plan;
  plan.opened = {{.slot = 4, .n_prompt_tokens = 9}, {.slot = 1, .n_prompt_tokens = 2}};
  plan.rows = {{.slot = 4, .position = 5, .n_tokens = 3},
               {.slot = 1, .position = 7, .n_tokens = 1, .token_begin = 3, .sample = true}};
  plan.tokens = {30, 31, 32, 0};
  return plan;
}

template <typename T>
std::vector<T> Read(const std::vector<uint8_t>& bytes, int64_t offset, int64_t n) {
  std::vector<T> values(n);
  std::memcpy(values.data(), &bytes.at(offset), n * sizeof(T));
  return values;
}

class CudaStepTest : public testing::Test {
 protected:
  CudaStepTest() : slots_(TinyLimits()), inputs_(TinyLimits(), /*with_block_tables=*/false) {
    for (int32_t slot = 0; slot < TinyLimits().max_num_seqs; ++slot) {
      last_tokens_.push_back(LastTokenOf(slot));
    }
    // The slots' tokens before the two rows.
    StepPlan before;
    before.opened = TwoRows().opened;
    for (int32_t i = 0; i < 4; ++i) before.grants.push_back({4, i, i});
    for (int32_t i = 0; i < 4; ++i) before.grants.push_back({1, i, 10 + i});
    before.rows = {{.slot = 4, .n_tokens = 5},
                   {.slot = 1, .n_tokens = 7, .token_begin = 5, .sample = true}};
    before.tokens.assign(12, 1);
    EXPECT_TRUE(slots_.Apply(before).ok());
    plan_ = TwoRows();
    plan_.step_id = 1;
    plan_.opened.clear();
    plan_.rows[1].use_last_sampled = true;
    plan_.tokens.pop_back();
    const absl::Status applied = slots_.Apply(plan_);
    EXPECT_TRUE(applied.ok()) << applied;
    inputs_.Build(plan_, slots_, last_tokens_);
    work_.decode_items = {{.table_row = 1, .token_begin = 3, .n_tokens = 1, .position = 7}};
    work_.prefill_items = {{.table_row = 4, .n_tokens = 3, .position = 5}};
  }

  SlotTracker slots_;
  StepInputs inputs_;
  std::vector<int32_t> last_tokens_;
  StepPlan plan_;
  AttentionWork work_;
};

TEST_F(CudaStepTest, ArraysDoNotOverlap) {
  const CudaStepLayout layout(
      {.n_tokens = 65, .n_head_rows = 3, .n_merges = 1, .n_prefill_items = 0, .n_decode_items = 7});
  const std::vector<std::pair<int64_t, int64_t>> arrays = {
      {layout.token_ids, 65 * 4},
      {layout.positions, 65 * 4},
      {layout.token_slot, 65 * 4},
      {layout.head_token_idx, 3 * 4},
      {layout.sample_rows, 3 * sizeof(CudaSampleRow)},
      {layout.counts, 3 * 4},
      {layout.merges, sizeof(AttentionMerge)},
      {layout.prefill_items, 0},
      {layout.decode_items, 7 * sizeof(AttentionItem)},
      {layout.n_bytes, 0}};
  for (size_t i = 0; i + 1 < arrays.size(); ++i) {
    EXPECT_EQ(arrays[i].first % 256, 0) << i;
    EXPECT_LE(arrays[i].first + arrays[i].second, arrays[i + 1].first) << i;
  }
}

TEST_F(CudaStepTest, RowsAreNamedByTheirSlots) {
  const CudaStepLayout layout(
      {.n_tokens = 4, .n_head_rows = 1, .n_prefill_items = 1, .n_decode_items = 1});
  std::vector<uint8_t> piece(layout.n_bytes, 0xee);
  const int64_t n_bytes = WriteStep(layout, plan_, inputs_, work_, kPaddingSlot, piece.data());
  EXPECT_EQ(n_bytes, layout.decode_items + static_cast<int64_t>(sizeof(AttentionItem)));
  using Ints = std::vector<int32_t>;
  EXPECT_EQ(Read<int32_t>(piece, layout.token_ids, 4), (Ints{30, 31, 32, LastTokenOf(1)}));
  EXPECT_EQ(Read<int32_t>(piece, layout.positions, 4), (Ints{5, 6, 7, 7}));
  EXPECT_EQ(Read<int32_t>(piece, layout.token_slot, 4), (Ints{4, 4, 4, 1}));
  EXPECT_EQ(Read<int32_t>(piece, layout.head_token_idx, 1), (Ints{3}));
  EXPECT_EQ(Read<int32_t>(piece, layout.counts, 3), (Ints{1, 1, 0}));
  const CudaSampleRow row = Read<CudaSampleRow>(piece, layout.sample_rows, 1)[0];
  EXPECT_EQ(row.slot, 1);
  EXPECT_EQ(row.position, 8);
  EXPECT_EQ(row.n_generated_tokens, 6);
  EXPECT_EQ(row.target_token_id, -1);
}

TEST_F(CudaStepTest, PaddingIsASequenceOfItsOwnThatNobodySamples) {
  const CudaStepLayout layout(
      {.n_tokens = 8, .n_head_rows = 3, .n_prefill_items = 1, .n_decode_items = 9});
  std::vector<uint8_t> piece(layout.n_bytes, 0xee);
  const int64_t n_bytes = WriteStep(layout, plan_, inputs_, work_, kPaddingSlot, piece.data());
  EXPECT_EQ(n_bytes, layout.decode_items + static_cast<int64_t>(sizeof(AttentionItem)));
  using Ints = std::vector<int32_t>;
  EXPECT_EQ(Read<int32_t>(piece, layout.token_ids, 8),
            (Ints{30, 31, 32, LastTokenOf(1), 0, 0, 0, 0}));
  EXPECT_EQ(Read<int32_t>(piece, layout.positions, 8), (Ints{5, 6, 7, 7, 0, 1, 2, 3}));
  EXPECT_EQ(Read<int32_t>(piece, layout.token_slot, 8), (Ints{4, 4, 4, 1, 6, 6, 6, 6}));
  EXPECT_EQ(Read<int32_t>(piece, layout.head_token_idx, 3), (Ints{3, 0, 0}));
  const std::vector<CudaSampleRow> rows = Read<CudaSampleRow>(piece, layout.sample_rows, 3);
  EXPECT_EQ(rows[0].slot, 1);
  EXPECT_EQ(rows[1].slot, -1);
  EXPECT_EQ(rows[2].slot, -1);
}

// What the operations size their launches and their scratch by.
TEST_F(CudaStepTest, TheViewPassesOnTheAttentionsCapacity) {
  const CudaStepLayout layout({.n_tokens = 4,
                               .n_head_rows = 1,
                               .n_merges = 2,
                               .n_prefill_items = 3,
                               .n_decode_items = 9,
                               .n_partials = 7});
  std::vector<uint8_t> piece(layout.n_bytes);
  const AttentionWorkView work =
      ViewOf(layout, piece.data(), /*block_table=*/nullptr, /*max_blocks_per_row=*/1)
          .attention_work;
  EXPECT_EQ(work.max_merges, 2);
  EXPECT_EQ(work.max_prefill_items, 3);
  EXPECT_EQ(work.max_decode_items, 9);
  EXPECT_EQ(work.max_partials, 7);
}

}  // namespace
}  // namespace bora
