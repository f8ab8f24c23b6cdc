// The devices that operations run on, and the views of memory that operations take. An operation is
// a set of overloads on the device type, CpuDevice (kernels/cpu/cpu_device.h) or CudaDevice
// (kernels/cuda/runtime/cuda_device.h). All memory passed to an operation belongs to its device:
// host memory for a CpuDevice, GPU memory for a CudaDevice.
#pragma once

#include <cstdint>

#include "base/number_formats.h"

namespace bora {

class CpuDevice;
class CudaDevice;

// A view of an unpacked weight, such as the embedding table. The memory belongs to the weight
// loader and outlives every operation.
struct Weight {
  DType dtype = DType::kF32;
  const void* data = nullptr;  // [n_rows, n_cols], row-major: a row makes one output element
  int64_t n_rows = 0;
  int64_t n_cols = 0;
};

}  // namespace bora
