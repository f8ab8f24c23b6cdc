// The two orders in which checkpoints store the rows of wq and wk, which decide the elements that
// the rotary embedding rotates together. Mistral's files pair neighbours of a head: (0,1), (2,3),
// ... ("interleaved"). Hugging Face's pair element j with j + head_dim/2 ("half-rotation"). Bora
// computes in half-rotation order, so Mistral's rows are permuted, exactly once, when they are
// read.
#pragma once

#include <cstdint>

namespace bora {

// The row of an interleaved wq or wk that holds row `row` of the half-rotation order. Heads do not
// mix. REQUIRES: row >= 0, head_dim even.
constexpr int64_t InterleavedRow(int64_t row, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const int64_t in_head = row % head_dim;
  const int64_t place = in_head < half ? 2 * in_head : 2 * (in_head - half) + 1;
  return row - in_head + place;
}

// The inverse: the row of the half-rotation order that row `row` of an interleaved wq or wk holds.
constexpr int64_t HalfRotationRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + (in_head % 2) * (head_dim / 2);
}

}  // namespace bora
