// The two orders in which checkpoints store the rows of wq and wk. Mistral's own files rotate
// adjacent pairs (0,1), (2,3), ... of a head; Hugging Face's rotate element j with j + head_dim/2.
// Bora computes in the latter order, so Mistral's rows are permuted, exactly once, when read.
#pragma once

#include <cstdint>

namespace bora {

// The row of an interleaved wq or wk that holds row `row` of the half-rotation order.
constexpr int64_t InterleavedRow(int64_t row, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const int64_t in_head = row % head_dim;
  const int64_t place = in_head < half ? 2 * in_head : 2 * (in_head - half) + 1;
  return row - in_head + place;
}

// The inverse: the row of the half-rotation order that interleaved row `row` holds.
constexpr int64_t HalfRotationRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + (in_head % 2) * (head_dim / 2);
}

}  // namespace bora
