// The one way to run the tests of operations on a GPU.
#include <cuda_runtime_api.h>

#include "base/status_macros.h"
#include "tests/cuda/cuda_testing.h"

namespace bora {

std::vector<std::string> CudaRunModes() { return {"Gpu"}; }

absl::StatusOr<CudaLimits> EnterCudaRunMode(const std::string&) {
  const absl::StatusOr<CudaDeviceInfo> info = OpenCudaDevice(0);
  if (absl::IsNotFound(info.status())) return absl::UnavailableError(info.status().message());
  RETURN_IF_ERROR(info.status());
  return info->limits;
}

// What a kernel did wrong is its own test's failure, not the next one's.
void LeaveCudaRunMode() {
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) return;
  const cudaError_t error = cudaDeviceSynchronize();
  CHECK(error == cudaSuccess) << cudaGetErrorString(error);
}

}  // namespace bora
