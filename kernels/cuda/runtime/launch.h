// Starts a kernel on a device's stream. tests/cuda_host/launch.h has the form for the CPU.
#pragma once

#include "base/check.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/launch_shape.h"

namespace bora {

// Before every launch that needs it: a kernel's attributes are of the calling thread's GPU, and to
// remember for which they are set costs more code than the half microsecond that each takes, which
// a launch from a graph does not spend.
inline void AllowSharedBytes(const void* kernel, int64_t n_bytes) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n_bytes));
  CHECK(error == cudaSuccess) << n_bytes
                              << " bytes of shared memory: " << cudaGetErrorString(error);
  // As many blocks share a multiprocessor as fit its shared memory; the driver may otherwise leave
  // them less of it and give the rest to the first-level cache. A hint.
  const cudaError_t hint = cudaFuncSetAttribute(
      kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  CHECK(hint == cudaSuccess) << "share of shared memory: " << cudaGetErrorString(hint);
}

// Queues kernel(args...), the arguments converted to the kernel's parameters. A grid without blocks
// does nothing. A launch that the driver refuses ends the process; errors of the kernel itself show
// at the next synchronisation.
template <typename... Params, typename... Args>
void LaunchKernel(CudaDevice& device, const LaunchShape& shape, void (*kernel)(Params...),
                  Args... args) {
  CheckLaunch(device, shape);
  if (shape.empty()) return;
  if (shape.shared_bytes > kPlainSharedBytes) {
    AllowSharedBytes(reinterpret_cast<const void*>(kernel), shape.shared_bytes);
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

// Loads the kernels' code (kernels/cuda/runtime/load_kernels.h): whoever asks for a kernel's
// attributes gets them of loaded code.
template <typename... Kernels>
void LoadKernels(Kernels... kernels) {
  for (const void* kernel : {reinterpret_cast<const void*>(kernels)...}) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    CHECK(error == cudaSuccess) << "a kernel's code: " << cudaGetErrorString(error);
  }
}

}  // namespace bora
