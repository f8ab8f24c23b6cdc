#include "kernels/join_columns.h"

#include <algorithm>

#include "kernels/cpu/cpu_device.h"

namespace bora {

void JoinColumns(CpuDevice&, const JoinShape& shape, const float* parts, float* out) {
  for (int64_t begin = 0, part = 0; begin < shape.n_cols; begin += shape.n_part_cols, ++part) {
    const int64_t n = std::min(shape.n_part_cols, shape.n_cols - begin);
    for (int64_t row = 0; row < shape.n_rows; ++row) {
      std::copy_n(parts + (part * shape.n_rows + row) * shape.n_part_cols, n,
                  out + row * shape.n_cols + begin);
    }
  }
}

}  // namespace bora
