// Work on a GPU that only the benchmark needs: inputs, and what the device can do at most.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"

namespace bora {

// out[i]: uniform in [-scale, scale), a pure function of seed and i.
void FillRandom(CudaDevice& device, uint64_t seed, float scale, int64_t n, Bf16* out);
void FillRandom(CudaDevice& device, uint64_t seed, float scale, int64_t n, float* out);

// The driver's copy from device memory to device memory.
void CopyOnDevice(CudaDevice& device, void* to, const void* from, int64_t n_bytes);

// Reads n_bytes (a multiple of 16) n_times over and writes nothing of it. sink: one word.
void ReadOnly(CudaDevice& device, const void* data, int64_t n_bytes, int n_times, uint32_t* sink);

// A kernel that does nothing.
void LaunchEmpty(CudaDevice& device);

}  // namespace bora
