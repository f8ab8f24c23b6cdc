#include <algorithm>

#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "tests/gpu/bench_kernels.h"

namespace bora {
namespace {

constexpr int kThreads = 256;

// The finaliser of SplitMix64 (Steele et al. 2014).
__device__ inline uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

__device__ inline void Store(float value, float* out) { *out = value; }
__device__ inline void Store(float value, Bf16* out) { *out = ToBf16(value); }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    FillRandomKernel(uint64_t seed, float scale, int64_t n, T* out) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride) {
    const uint64_t bits = Mix(Mix(seed) + static_cast<uint64_t>(i));
    Store(scale * (static_cast<float>(bits >> 40) * 0x1p-23f - 1.0f), &out[i]);
  }
}

// Four independent loads of 16 bytes a thread and round.
__global__ void __launch_bounds__(kThreads)
    ReadOnlyKernel(int64_t n, int n_times, const uint4* data, uint32_t* sink) {
  constexpr int kLoads = 4;
  uint32_t lanes[kLoads] = {};
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int time = 0; time < n_times; ++time) {
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride * kLoads) {
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
        if (i + k * stride >= n) continue;
        // Past the first-level cache, and each time anew.
        const uint4 words = __ldcg(&data[i + k * stride]);
        lanes[k] += words.x ^ words.y ^ words.z ^ words.w;
      }
    }
  }
  uint32_t sum = 0;
#pragma unroll
  for (int k = 0; k < kLoads; ++k) sum ^= lanes[k];
  // Almost never so, which the compiler cannot know.
  if (sum == 0x5bd1e995u) *sink = sum;
}

__global__ void EmptyKernel() {}

template <typename T>
void Fill(CudaDevice& device, uint64_t seed, float scale, int64_t n, T* out) {
  const int64_t n_blocks =
      std::min<int64_t>(CeilDiv(n, kThreads), int64_t{32} * device.limits().n_multiprocessors);
  LaunchKernel(device, {.n_blocks_x = n_blocks, .n_threads = kThreads}, FillRandomKernel<T>, seed,
               scale, n, out);
}

}  // namespace

void FillRandom(CudaDevice& device, uint64_t seed, float scale, int64_t n, Bf16* out) {
  Fill(device, seed, scale, n, out);
}
void FillRandom(CudaDevice& device, uint64_t seed, float scale, int64_t n, float* out) {
  Fill(device, seed, scale, n, out);
}

void CopyOnDevice(CudaDevice& device, void* to, const void* from, int64_t n_bytes) {
  const cudaError_t error = cudaMemcpyAsync(to, from, static_cast<size_t>(n_bytes),
                                            cudaMemcpyDeviceToDevice, device.stream());
  CHECK(error == cudaSuccess) << "copy on the GPU: " << cudaGetErrorString(error);
}

// As many threads as the device holds at once: 2,048 on each multiprocessor.
void ReadOnly(CudaDevice& device, const void* data, int64_t n_bytes, int n_times, uint32_t* sink) {
  LaunchKernel(device,
               {.n_blocks_x = int64_t{2048 / kThreads} * device.limits().n_multiprocessors,
                .n_threads = kThreads},
               ReadOnlyKernel, DivExact(n_bytes, 16), n_times, static_cast<const uint4*>(data),
               sink);
}

void LaunchEmpty(CudaDevice& device) { LaunchKernel(device, {.n_threads = 32}, EmptyKernel); }

}  // namespace bora
