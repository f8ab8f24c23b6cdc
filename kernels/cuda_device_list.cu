#include <cuda_runtime_api.h>

#include "kernels/cuda_device_list.h"

namespace bora {

void AppendCudaDevices(std::vector<std::string>* lines) {
  // Without a usable driver the call fails and leaves the count alone.
  int n_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error != cudaSuccess) {
    lines->push_back(std::string("cuda: none usable: ") + cudaGetErrorString(error));
    return;
  }
  for (int device = 0; device < n_devices; ++device) {
    cudaDeviceProp properties = {};
    const std::string name = "cuda:" + std::to_string(device);
    if (const cudaError_t failed = cudaGetDeviceProperties(&properties, device);
        failed != cudaSuccess) {
      lines->push_back(name + ": " + cudaGetErrorString(failed));
      continue;
    }
    lines->push_back(name + ": " + properties.name + ", compute capability " +
                     std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                     ", " + std::to_string(properties.totalGlobalMem >> 20) + " MiB");
  }
  if (n_devices == 0) lines->push_back("cuda: none");
}

}  // namespace bora
