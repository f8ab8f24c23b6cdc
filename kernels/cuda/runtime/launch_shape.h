// How many blocks and threads a kernel runs with.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "kernels/cuda/runtime/cuda_device.h"

namespace bora {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

struct LaunchShape {
  int64_t n_blocks_x = 1;  // at most 2^31 - 1
  int64_t n_blocks_y = 1;  // at most 65,535
  int64_t n_threads = 0;   // in each block: a multiple of 32, at most 1024
  // What a block's arrays in shared memory take (SharedBytes), at most
  // CudaLimits::max_shared_bytes.
  int64_t shared_bytes = 0;

  bool empty() const { return n_blocks_x == 0 || n_blocks_y == 0; }
};

// More than this must be permitted for each kernel.
inline constexpr int64_t kPlainSharedBytes = 48 * 1024;

inline void CheckLaunch(const CudaDevice& device, const LaunchShape& shape) {
  CHECK(shape.n_blocks_x >= 0 && shape.n_blocks_x <= INT32_MAX) << shape.n_blocks_x << " blocks";
  CHECK(shape.n_blocks_y >= 0 && shape.n_blocks_y <= 65535) << shape.n_blocks_y << " blocks in y";
  CHECK(shape.n_threads > 0 && shape.n_threads <= 1024 && shape.n_threads % kWarpSize == 0)
      << shape.n_threads << " threads in a block";
  CHECK(shape.shared_bytes >= 0 && shape.shared_bytes <= device.limits().max_shared_bytes)
      << shape.shared_bytes << " bytes of shared memory";
}

}  // namespace bora
