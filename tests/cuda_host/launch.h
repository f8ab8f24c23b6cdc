// Runs a kernel on the CPU. The contract is that of kernels/launch.h, but the kernel has run when
// this returns.
#pragma once

#include <tuple>

#include "kernels/cuda_device.h"
#include "kernels/launch_shape.h"
#include "tests/cuda_host/block.h"

namespace bora {

template <typename... Params, typename... Args>
void LaunchKernel(CudaDevice&, const LaunchShape& shape, void (*kernel)(Params...), Args... args) {
  CheckLaunch(shape);
  if (shape.empty()) return;
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> arguments;
  };
  Call call = {kernel, std::tuple<Params...>(static_cast<Params>(args)...)};
  cuda_host::RunGrid(
      shape,
      [](void* opaque) {
        Call& call = *static_cast<Call*>(opaque);
        std::apply(call.kernel, call.arguments);
      },
      &call);
}

}  // namespace bora
