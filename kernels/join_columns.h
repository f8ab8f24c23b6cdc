// Puts matrices side by side. Used for the logits: each tensor rank computes a slice of the
// columns.
#pragma once

#include <cstdint>

#include "kernels/device_views.h"

namespace bora {

struct JoinShape {
  int64_t n_rows = 0;
  int64_t n_cols = 0;       // of the joined matrix
  int64_t n_part_cols = 0;  // of each part; columns of the parts beyond n_cols are padding
};

// out[row, part * n_part_cols + i] = parts[part, row, i] for every column of out. parts:
// [CeilDiv(n_cols, n_part_cols) or more, n_rows, n_part_cols]. out: [n_rows, n_cols], must not
// overlap parts. On a CudaDevice both are in device memory and the work is queued. Moves n_rows *
// n_cols * 8 bytes.
void JoinColumns(CpuDevice& device, const JoinShape& shape, const float* parts, float* out);
void JoinColumns(CudaDevice& device, const JoinShape& shape, const float* parts, float* out);

}  // namespace bora
