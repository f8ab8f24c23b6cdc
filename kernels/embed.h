// Token embedding: out[t, :] = table[tokens[t], :].
#pragma once

#include "absl/types/span.h"
#include "kernels/device_views.h"

namespace bora {

// table: [vocab_size, dim], the whole vocabulary on every rank. tokens: [n_tokens], each in [0,
// vocab_size); an id outside ends the process, as plans have been validated. out: [n_tokens, dim]
// floats, overwritten. Called by the device's thread. Moves n_tokens * dim * (DTypeBytes + 4)
// bytes.
void Embed(CpuDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out);

// The same on a GPU: table, tokens and out are in device memory, and the call returns once the work
// is queued. The table is kF32 or kBf16.
// REQUIRES: every id is in [0, vocab_size); ids are not checked, and any other reads outside the
// table.
void Embed(CudaDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out);

// How a step refers to a token that is not yet drawn when the step is queued: by -1 - slot, with
// the slot whose last drawn token it will be.
constexpr int32_t LastTokenOf(int32_t slot) { return -1 - slot; }

// Replaces each token below zero, -1 - slot, by last_tokens[slot]. tokens: [n_tokens], updated in
// place. last_tokens: by slot, as Sample writes them. Both are in device memory; queued on the
// device's stream.
void ResolveTokens(CudaDevice& device, int64_t n_tokens, const int32_t* last_tokens,
                   int32_t* tokens);

}  // namespace bora
