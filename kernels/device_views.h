// The devices that operations run on and the views of memory that they take. Operations are
// overloads on the device type, CpuDevice (kernels/cpu/cpu_device.h) or CudaDevice
// (kernels/cuda/runtime/cuda_device.h); all memory that an operation takes is its device's.
#pragma once

#include <cstdint>

#include "base/number_formats.h"

namespace bora {

class CpuDevice;
class CudaDevice;

// A weight in the device's layout. The memory belongs to the weight loader and outlives every
// operation.
struct Weight {
  DType dtype = DType::kF32;
  const void* data = nullptr;  // [n_rows, n_cols], row-major: a row makes one output element
  int64_t n_rows = 0;
  int64_t n_cols = 0;
};

}  // namespace bora
