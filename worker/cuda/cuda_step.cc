#include "worker/cuda/cuda_step.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/int_math.h"

namespace bora {
namespace {

// Bytes; every array begins on a multiple. Operations need 16; device memory is aligned to 256.
constexpr int64_t kArrayAlignment = 256;

// The array of T at `offset` bytes from `base`.
template <typename T>
T* At(uint8_t* base, int64_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  return reinterpret_cast<T*>(base + offset);
}

// `n`, checked against the room that the layout has.
int64_t Count(size_t n, int64_t capacity) {
  CHECK_LE(static_cast<int64_t>(n), capacity) << "the step's arrays";
  return static_cast<int64_t>(n);
}

}  // namespace

CudaStepLayout::CudaStepLayout(const CudaStepCapacity& step_capacity) : capacity(step_capacity) {
  const auto reserve = [this](int64_t n, int64_t element_bytes) {
    return std::exchange(n_bytes, n_bytes + RoundUp(n * element_bytes, kArrayAlignment));
  };
  constexpr int64_t kInt = sizeof(int32_t);
  token_ids = reserve(capacity.n_tokens, kInt);
  positions = reserve(capacity.n_tokens, kInt);
  token_slot = reserve(capacity.n_tokens, kInt);
  head_token_idx = reserve(capacity.n_head_rows, kInt);
  sample_rows = reserve(capacity.n_head_rows, sizeof(CudaSampleRow));
  counts = reserve(3, kInt);
  merges = reserve(capacity.n_merges, sizeof(AttentionMerge));
  prefill_items = reserve(capacity.n_prefill_items, sizeof(AttentionItem));
  decode_items = reserve(capacity.n_decode_items, sizeof(AttentionItem));
}

CudaStepView ViewOf(const CudaStepLayout& layout, uint8_t* base, const int32_t* block_table,
                    int64_t max_blocks_per_row) {
  const CudaStepCapacity& n = layout.capacity;
  CudaStepView view;
  view.token_ids = absl::MakeSpan(At<int32_t>(base, layout.token_ids), n.n_tokens);
  view.head_token_idx =
      absl::MakeConstSpan(At<int32_t>(base, layout.head_token_idx), n.n_head_rows);
  view.sample_rows = At<CudaSampleRow>(base, layout.sample_rows);
  view.tokens = {.n_tokens = n.n_tokens,
                 .positions = At<int32_t>(base, layout.positions),
                 .token_table_row = At<int32_t>(base, layout.token_slot),
                 .block_table = block_table,
                 .max_blocks_per_row = max_blocks_per_row};
  view.attention_work = {.decode_items = At<AttentionItem>(base, layout.decode_items),
                         .prefill_items = At<AttentionItem>(base, layout.prefill_items),
                         .merges = At<AttentionMerge>(base, layout.merges),
                         .counts = At<int32_t>(base, layout.counts),
                         .max_decode_items = n.n_decode_items,
                         .max_prefill_items = n.n_prefill_items,
                         .max_merges = n.n_merges,
                         .max_partials = n.n_partials};
  return view;
}

int64_t WriteStep(const CudaStepLayout& layout, const StepPlan& plan, const StepInputs& inputs,
                  const AttentionWork& work, int32_t padding_slot, uint8_t* base) {
  const CudaStepCapacity& n = layout.capacity;
  const StepTokensView tokens = inputs.view();
  CHECK_LE(tokens.n_tokens, n.n_tokens);
  int32_t* const token_ids = At<int32_t>(base, layout.token_ids);
  int32_t* const positions = At<int32_t>(base, layout.positions);
  int32_t* const token_slot = At<int32_t>(base, layout.token_slot);
  std::copy_n(inputs.token_ids().data(), tokens.n_tokens, token_ids);
  std::copy_n(tokens.positions, tokens.n_tokens, positions);
  for (int64_t i = 0; i < tokens.n_tokens; ++i) {
    token_slot[i] = plan.rows[tokens.token_table_row[i]].slot;
  }
  // Padding tokens.
  for (int64_t i = tokens.n_tokens; i < n.n_tokens; ++i) {
    token_ids[i] = 0;
    positions[i] = static_cast<int32_t>(i - tokens.n_tokens);
    token_slot[i] = padding_slot;
  }

  const absl::Span<const HeadRow> head_rows = inputs.head_rows();
  const int64_t n_head_rows = Count(head_rows.size(), n.n_head_rows);
  int32_t* const head_token_idx = At<int32_t>(base, layout.head_token_idx);
  CudaSampleRow* const sample_rows = At<CudaSampleRow>(base, layout.sample_rows);
  for (int64_t i = 0; i < n_head_rows; ++i) {
    head_token_idx[i] = head_rows[i].token_idx;
    sample_rows[i] = {.slot = head_rows[i].slot,
                      .position = head_rows[i].position,
                      .n_generated_tokens = head_rows[i].n_generated_tokens,
                      .target_token_id = head_rows[i].target_token_id};
  }
  for (int64_t i = n_head_rows; i < n.n_head_rows; ++i) {
    head_token_idx[i] = 0;
    sample_rows[i] = {.slot = -1};
  }

  int32_t* const counts = At<int32_t>(base, layout.counts);
  counts[0] = static_cast<int32_t>(Count(work.decode_items.size(), n.n_decode_items));
  counts[1] = static_cast<int32_t>(Count(work.prefill_items.size(), n.n_prefill_items));
  counts[2] = static_cast<int32_t>(Count(work.merges.size(), n.n_merges));
  CHECK_LE(work.n_partials, n.n_partials) << "partial results";
  std::copy(work.merges.begin(), work.merges.end(), At<AttentionMerge>(base, layout.merges));
  std::copy(work.prefill_items.begin(), work.prefill_items.end(),
            At<AttentionItem>(base, layout.prefill_items));
  std::copy(work.decode_items.begin(), work.decode_items.end(),
            At<AttentionItem>(base, layout.decode_items));
  return layout.decode_items + counts[0] * static_cast<int64_t>(sizeof(AttentionItem));
}

}  // namespace bora
