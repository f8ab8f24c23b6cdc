// Token embedding: out[t, :] = table[tokens[t], :].
#pragma once

#include "absl/types/span.h"
#include "kernels/device_views.h"

namespace bora {

// table: [vocab_size, dim], the whole vocabulary on every rank. tokens: [n_tokens], each in [0,
// vocab_size) (the plan was validated). out: [n_tokens, dim], overwritten. Moves n_tokens * dim *
// (DTypeBytes + 4) bytes.
void Embed(CpuDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out);

// tokens: [n_tokens] in device memory. A token id outside the vocabulary reads outside the table.
void Embed(CudaDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out);

// A token of a step that is still unknown when the step is queued is written as the slot that will
// have drawn it: its id is then -1 - slot.
constexpr int32_t LastTokenOf(int32_t slot) { return -1 - slot; }

// tokens: [n_tokens], in place: ids below zero become last_tokens[-1 - id]. Both in device memory.
void ResolveTokens(CudaDevice& device, int64_t n_tokens, const int32_t* last_tokens,
                   int32_t* tokens);

}  // namespace bora
