// The requirements of this build's kernels on a GPU. In a header of its own so that the device
// layer can check them without linking the operations.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/runtime/cuda_runtime.h"

namespace bora {

// FAILED_PRECONDITION if this build has no code for the GPU's architecture, or if the GPU does not
// give a block enough shared memory: compute capability 8.6 and 8.9 run code for 8.0 but have only
// 99 KiB. A pure function.
inline absl::Status CheckCudaRequirements(const CudaDeviceInfo& info) {
  // The architectures of kernels/CMakeLists.txt. Code for 9.0a or 8.0 runs on no other major
  // version.
  if (info.major != 8 && info.major != 9) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda:", info.ordinal, ": ", info.name, " has compute capability ", info.major,
                     ".", info.minor, ", this build has code for 8.0 and 9.0"));
  }
  if (info.limits.max_shared_bytes < kMaxTileSharedBytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda:", info.ordinal, ": ", info.name, " gives a block ",
                     info.limits.max_shared_bytes, " bytes of shared memory, this build takes ",
                     kMaxTileSharedBytes, ", as compute capability 8.0 and 9.0 give"));
  }
  return absl::OkStatus();
}

}  // namespace bora
