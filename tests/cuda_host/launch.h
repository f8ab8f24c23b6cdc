// Runs a kernel on the CPU, with the contract of kernels/cuda/runtime/launch.h. On the null stream
// it has run when this returns.
#pragma once

#include <tuple>

#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/launch_shape.h"
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/stream.h"

namespace bora {

template <typename... Params, typename... Args>
void LaunchKernel(CudaDevice& device, const LaunchShape& shape, void (*kernel)(Params...),
                  Args... args) {
  CheckLaunch(device, shape);
  if (shape.empty()) return;
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> arguments;
  };
  Call call = {kernel, std::tuple<Params...>(static_cast<Params>(args)...)};
  cuda_host::Submit(device.stream(), [shape, call]() mutable {
    cuda_host::RunGrid(
        shape,
        [](void* opaque) {
          Call& call = *static_cast<Call*>(opaque);
          std::apply(call.kernel, call.arguments);
        },
        &call);
  });
}

// Code is always there.
template <typename... Kernels>
void LoadKernels(Kernels...) {}

}  // namespace bora
