// Puts matrices side by side: the logits of which each tensor rank has computed a slice.
#pragma once

#include <cstdint>

#include "kernels/device_views.h"

namespace bora {

struct JoinShape {
  int64_t n_rows = 0;
  int64_t n_cols = 0;       // of the result
  int64_t n_part_cols = 0;  // of each part; the last ones may be padding, or all of it
};

// out[row, part * n_part_cols + i] = parts[part, row, i], as far as out has columns. parts:
// [CeilDiv(n_cols, n_part_cols) or more, n_rows, n_part_cols]; out: [n_rows, n_cols], no part of
// parts. Moves n_rows * n_cols * 8 bytes.
void JoinColumns(CpuDevice& device, const JoinShape& shape, const float* parts, float* out);
void JoinColumns(CudaDevice& device, const JoinShape& shape, const float* parts, float* out);

}  // namespace bora
