#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/join_columns.h"

namespace bora {
namespace {

constexpr int kThreads = 256;

// One float per thread; blockIdx.x is the row. Not in groups of four, because a part need not begin
// at a multiple of 16 bytes.
__global__ void __launch_bounds__(kThreads)
    JoinColumnsKernel(int n_rows, int n_cols, int n_part_cols, const float* parts, float* out) {
  const int col = blockIdx.y * kThreads + threadIdx.x;
  if (col >= n_cols) return;
  const int part = col / n_part_cols;
  const int64_t row = blockIdx.x;
  out[row * n_cols + col] =
      parts[(int64_t{part} * n_rows + row) * n_part_cols + (col - part * n_part_cols)];
}

}  // namespace

void JoinColumns(CudaDevice& device, const JoinShape& shape, const float* parts, float* out) {
  LaunchKernel(device,
               {.n_blocks_x = shape.n_rows,
                .n_blocks_y = CeilDiv(shape.n_cols, kThreads),
                .n_threads = kThreads},
               JoinColumnsKernel, shape.n_rows, shape.n_cols, shape.n_part_cols, parts, out);
}

void LoadJoinColumnsKernels() { LoadKernels(JoinColumnsKernel); }

}  // namespace bora
