// The devices that operations run on and the views of memory that they take. Operations are
// overloads on the device type, CpuDevice (kernels/cpu/cpu_device.h) or CudaDevice
// (kernels/cuda/runtime/cuda_device.h); all memory that an operation takes is its device's.
#pragma once

#include <cstdint>

namespace bora {

class CpuDevice;
class CudaDevice;

// Element type of weights and of the KV cache, which is never kF16. Activations are float; where an
// operation's weights are bf16 it rounds its activations to bf16 first, as the reference's bf16
// matrix products do, and accumulates in float. Where they are float16 it rounds nothing: a float16
// is a float with fewer digits.
enum class DType { kF32, kBf16, kF16 };

constexpr int64_t DTypeBytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// A weight in the device's layout. The memory belongs to the weight loader and outlives every
// operation.
struct Weight {
  DType dtype = DType::kF32;
  const void* data = nullptr;  // [n_rows, n_cols], row-major: a row makes one output element
  int64_t n_rows = 0;
  int64_t n_cols = 0;
};

}  // namespace bora
