// Queues a kernel on a device's stream. tests/cuda_host/launch.h is the counterpart that runs it on
// the CPU.
#pragma once

#include "base/check.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/launch_shape.h"

namespace bora {

// Permits a kernel to use n_bytes of shared memory per block. It is called before every launch that
// needs it: the permission belongs to the calling thread's GPU, and to remember which GPU has it
// would cost more code than the half microsecond that a call takes. A launch from a graph does not
// spend that.
inline void AllowSharedBytes(const void* kernel, int64_t n_bytes) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n_bytes));
  CHECK(error == cudaSuccess) << n_bytes
                              << " bytes of shared memory: " << cudaGetErrorString(error);
  // Asks the driver (a hint) to give the kernel's multiprocessors all of their shared memory, so
  // that as many blocks share one as fit. Otherwise it may give part of it to the first-level
  // cache.
  const cudaError_t hint = cudaFuncSetAttribute(
      kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  CHECK(hint == cudaSuccess) << "share of shared memory: " << cudaGetErrorString(hint);
}

// Queues kernel(args...), with the arguments converted to the types of the kernel's parameters. A
// grid without blocks does nothing. A launch that the driver refuses ends the process; errors of
// the kernel itself show at the next synchronisation.
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
  // The return value is this launch's own error, unlike cudaGetLastError, which may be an earlier
  // call's.
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  CHECK(error == cudaSuccess) << "launch: " << cudaGetErrorString(error);
}

// Loads the kernels' code onto the calling thread's GPU (see load_kernels.h). Asking for a kernel's
// attributes has that effect.
template <typename... Kernels>
void LoadKernels(Kernels... kernels) {
  for (const void* kernel : {reinterpret_cast<const void*>(kernels)...}) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    CHECK(error == cudaSuccess) << "a kernel's code: " << cudaGetErrorString(error);
  }
}

}  // namespace bora
