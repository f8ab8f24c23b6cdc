// The reference model at chosen positions of a long sequence: reference::Forward in float64 too,
// laid out so that tens of thousands of positions take seconds. Formulas are the same, each sum
// over a whole context; there is no cache, no batch and nothing is merged.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/reference/reference.h"

namespace bora::reference {

// The rows of Forward(config, weights, tokens) at `positions`, which ascend: -> [n, vocab_size].
// Sums are added up in another order than there. All layers but the last are computed at every
// position: one layer costs n_tokens^2 / 2 * n_heads * head_dim * 4 operations then, and in the
// last one (or the only one) a position costs context * n_heads * head_dim * 4. One core does about
// 10 billion a second.
Vector ForwardAt(const ModelConfig& config, const Weights& weights,
                 const std::vector<int32_t>& tokens, const std::vector<int64_t>& positions);

}  // namespace bora::reference
