// Token embedding: out[t, :] = table[tokens[t], :].
#pragma once

#include "absl/types/span.h"
#include "kernels/device.h"

namespace bora {

// table: [vocab_size, dim], the whole vocabulary on every rank. tokens: [n_tokens], each in [0,
// vocab_size) (the plan was validated). out: [n_tokens, dim], overwritten. Moves n_tokens * dim *
// (DTypeBytes + 4) bytes.
void Embed(CpuDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out);

// The table must be bf16. A token id outside the vocabulary reads outside the table.
void Embed(CudaDevice& device, const Weight& table, absl::Span<const int32_t> tokens, float* out);

}  // namespace bora
