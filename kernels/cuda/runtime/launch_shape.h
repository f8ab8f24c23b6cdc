// How many blocks and threads a kernel runs with, and how much shared memory.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "kernels/cuda/runtime/cuda_device.h"

namespace bora {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;  // all lanes of a warp

// The shape of one launch; the limits are CUDA's.
struct LaunchShape {
  int64_t n_blocks_x = 1;  // at most 2^31 - 1
  int64_t n_blocks_y = 1;  // at most 65,535
  int64_t n_threads = 0;   // in each block: a multiple of 32, at most 1024
  // Bytes of a block's arrays in shared memory (SharedBytes), at most CudaLimits::max_shared_bytes.
  int64_t shared_bytes = 0;

  bool empty() const { return n_blocks_x == 0 || n_blocks_y == 0; }
};

// A launch with more shared memory than this needs a permission for its kernel (AllowSharedBytes).
inline constexpr int64_t kPlainSharedBytes = 48 * 1024;

// Ends the process if the shape exceeds a limit of CUDA or of the device.
inline void CheckLaunch(const CudaDevice& device, const LaunchShape& shape) {
  CHECK(shape.n_blocks_x >= 0 && shape.n_blocks_x <= INT32_MAX) << shape.n_blocks_x << " blocks";
  CHECK(shape.n_blocks_y >= 0 && shape.n_blocks_y <= 65535) << shape.n_blocks_y << " blocks in y";
  CHECK(shape.n_threads > 0 && shape.n_threads <= 1024 && shape.n_threads % kWarpSize == 0)
      << shape.n_threads << " threads in a block";
  CHECK(shape.shared_bytes >= 0 && shape.shared_bytes <= device.limits().max_shared_bytes)
      << shape.shared_bytes << " bytes of shared memory";
}

}  // namespace bora
