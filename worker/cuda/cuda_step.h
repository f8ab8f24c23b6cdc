// A step's inputs for a GPU: arrays packed into one piece of pinned host memory, copied to the
// device in one go, and found there at fixed offsets, as graphs need it.
#pragma once

#include <cstdint>

#include "kernels/cuda/step_deltas.h"
#include "kernels/kv_cache.h"
#include "kernels/paged_attention.h"
#include "kernels/sample.h"
#include "model/step/step.h"
#include "worker/stage/step_inputs.h"

namespace bora {

// How many elements the arrays of a step have room for.
struct CudaStepCapacity {
  int64_t n_tokens = 0;
  int64_t n_head_rows = 0;  // HeadRow of worker/stage/step_inputs.h
  int64_t n_merges = 0;     // of attention, as are the following (kernels/paged_attention.h)
  int64_t n_prefill_items = 0;
  int64_t n_decode_items = 0;
  int64_t n_partials = 0;  // partial results; they lie in the device's scratch, not in the arrays
};

// Where the arrays lie: their offsets in bytes from the beginning of the piece, the same on host
// and device. Immutable after construction.
struct CudaStepLayout {
  explicit CudaStepLayout(const CudaStepCapacity& capacity);

  CudaStepCapacity capacity;
  int64_t token_ids = 0;       // int32 [n_tokens]
  int64_t positions = 0;       // int32 [n_tokens]
  int64_t token_slot = 0;      // int32 [n_tokens]
  int64_t head_token_idx = 0;  // int32 [n_head_rows]
  int64_t sample_rows = 0;     // CudaSampleRow [n_head_rows]
  int64_t counts = 0;          // int32 [3]: decode items, prefill items, merges
  int64_t merges = 0;          // AttentionMerge [n_merges]
  int64_t prefill_items = 0;   // AttentionItem [n_prefill_items]
  // AttentionItem [n_decode_items]. The last array, so that a copy may end at its last item in use.
  int64_t decode_items = 0;
  int64_t n_bytes = 0;  // of the whole piece
};

// The arrays of a step in device memory. A view; padding included.
struct CudaStepView {
  absl::Span<int32_t> token_ids;               // [n_tokens], some as LastTokenOf (kernels/embed.h)
  absl::Span<const int32_t> head_token_idx;    // [n_head_rows]
  const CudaSampleRow* sample_rows = nullptr;  // [n_head_rows]
  StepTokensView tokens;                       // the holder must point attention_work to the next
  AttentionWorkView attention_work;
};

// The view of a piece at `base` in device memory. block_table: [max_num_seqs + 1,
// max_blocks_per_row], by slot; the last line is the padding slot's.
CudaStepView ViewOf(const CudaStepLayout& layout, uint8_t* base, const int32_t* block_table,
                    int64_t max_blocks_per_row);

// Fills the piece at `base` in host memory with a step, and the rest of the capacity with padding.
// `inputs` and `work` are those of `plan`. Returns how many bytes, from `base` on, must be copied.
// REQUIRES: the step fits the capacity (CHECK).
//
// Padding tokens are at positions 0, 1, 2... of a sequence of their own in slot `padding_slot`,
// whose keys and values are never read; the attention's work does not contain them. Padding head
// rows have slot -1 and draw nothing.
int64_t WriteStep(const CudaStepLayout& layout, const StepPlan& plan, const StepInputs& inputs,
                  const AttentionWork& work, int32_t padding_slot, uint8_t* base);

}  // namespace bora
