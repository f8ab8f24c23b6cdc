// Starts a kernel on a device's stream. tests/cuda_host/launch.h has the form for the CPU.
#pragma once

#include "base/check.h"
#include "kernels/cuda_device.h"
#include "kernels/launch_shape.h"

namespace bora {

// Queues kernel(args...), the arguments converted to the kernel's parameters. A grid without blocks
// does nothing. A launch that the driver refuses ends the process; errors of the kernel itself show
// at the next synchronisation.
template <typename... Params, typename... Args>
void LaunchKernel(CudaDevice& device, const LaunchShape& shape, void (*kernel)(Params...),
                  Args... args) {
  CheckLaunch(device, shape);
  if (shape.empty()) return;
  if (shape.shared_bytes > kPlainSharedBytes) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    CHECK(error == cudaSuccess) << shape.shared_bytes
                                << " bytes of shared memory: " << cudaGetErrorString(error);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(shape.n_blocks_x), static_cast<unsigned>(shape.n_blocks_y));
  config.blockDim = dim3(static_cast<unsigned>(shape.n_threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = device.stream();
  // The launch's own error, not the last one of some earlier call.
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  CHECK(error == cudaSuccess) << "launch: " << cudaGetErrorString(error);
}

}  // namespace bora
