// The devices that operations run on, and the views of memory that operations take. An operation is
// a set of overloads on the device type, CpuDevice (kernels/cpu/cpu_device.h) or CudaDevice
// (kernels/cuda/runtime/cuda_device.h). All memory passed to an operation belongs to its device:
// host memory for a CpuDevice, GPU memory for a CudaDevice.
#pragma once

#include <cstdint>

namespace bora {

class CpuDevice;
class CudaDevice;

// Element type of weights and of the KV cache; a cache is never kF16. Activations are float. An
// operation with bf16 weights rounds its activations to bf16 first, as the reference's bf16 matrix
// products do, and accumulates in float. An operation with float16 weights does not round its
// activations: every float16 is exactly a float.
enum class DType { kF32, kBf16, kF16 };

// Bytes of one element.
constexpr int64_t DTypeBytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// A view of an unpacked weight, such as the embedding table. The memory belongs to the weight
// loader and outlives every operation.
struct Weight {
  DType dtype = DType::kF32;
  const void* data = nullptr;  // [n_rows, n_cols], row-major: a row makes one output element
  int64_t n_rows = 0;
  int64_t n_cols = 0;
};

}  // namespace bora
