// The orders that CUDA leaves open, for the tests of operations on the CPU.
#include "tests/cuda/cuda_testing.h"
#include "tests/cuda_host/ops_testing.h"

namespace bora {

std::vector<std::string> CudaRunModes() {
  std::vector<std::string> names;
  for (const cuda_host::RunOptions& options : cuda_host::AllRunOptions()) {
    names.push_back(cuda_host::NameOf(options));
  }
  return names;
}

absl::StatusOr<CudaLimits> EnterCudaRunMode(const std::string& mode) {
  for (const cuda_host::RunOptions& options : cuda_host::AllRunOptions()) {
    if (cuda_host::NameOf(options) == mode) cuda_host::SetRunOptions(options);
  }
  return CudaLimits();
}

void LeaveCudaRunMode() { cuda_host::SetRunOptions({}); }

}  // namespace bora
