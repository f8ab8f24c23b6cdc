// A step's inputs for a GPU: packed into one piece of pinned memory, copied in one go, and seen on
// the device as arrays at fixed places.
#pragma once

#include <cstdint>

#include "kernels/cuda/step_deltas.h"
#include "kernels/kv_cache.h"
#include "kernels/paged_attention.h"
#include "kernels/sample.h"
#include "model/step/step.h"
#include "worker/stage/step_inputs.h"

namespace bora {

// How many of everything a step's arrays have room for.
struct CudaStepCapacity {
  int64_t n_tokens = 0;
  int64_t n_head_rows = 0;
  int64_t n_merges = 0;
  int64_t n_prefill_items = 0;
  int64_t n_decode_items = 0;
  int64_t n_partials = 0;  // of attention, in the device's scratch
};

// Where the arrays lie, in bytes from the beginning of the piece. The same on host and device.
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
  int64_t decode_items = 0;    // AttentionItem [n_decode_items]; last: a copy may end in it
  int64_t n_bytes = 0;
};

// A step as the device sees it.
struct CudaStepView {
  absl::Span<int32_t> token_ids;               // [n_tokens], see LastTokenOf
  absl::Span<const int32_t> head_token_idx;    // [n_head_rows]
  const CudaSampleRow* sample_rows = nullptr;  // [n_head_rows]
  StepTokensView tokens;                       // attention_work is the holder's to set
  AttentionWorkView attention_work;
};

// The view of a piece at `base` in device memory. block_table: by slot, one line more than slots.
CudaStepView ViewOf(const CudaStepLayout& layout, uint8_t* base, const int32_t* block_table,
                    int64_t max_blocks_per_row);

// Fills the piece at `base` in host memory with a step; what the capacity has room for beyond it is
// padding. Returns the bytes that are worth copying.
//
// Padding tokens are at positions 0, 1, 2... of a sequence of their own in slot padding_slot, whose
// keys and values nobody reads; they are no part of the attention's work, and no row samples them.
int64_t WriteStep(const CudaStepLayout& layout, const StepPlan& plan, const StepInputs& inputs,
                  const AttentionWork& work, int32_t padding_slot, uint8_t* base);

}  // namespace bora
