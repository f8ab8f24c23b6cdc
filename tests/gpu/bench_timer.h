// What the parts of the GPU benchmark share: the device with random data in its memory, the timing
// of launches and the rows that report them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/bf16.h"
#include "kernels/cuda/runtime/cublas_lt.h"
#include "kernels/cuda/runtime/cuda_runtime.h"

namespace bora {

// What this device can do at most, measured before anything else. 0: unknown.
struct GpuLimits {
  double copy_gb_per_s = 0;     // device to device, bytes read and written
  double read_gb_per_s = 0;     // by a kernel that writes nothing
  double gemm_tflop_per_s = 0;  // bf16, 8192 x 8192 x 8192, by cuBLASLt
};

// Owned by one thread, as everything here.
struct GpuBench {
  // UNAVAILABLE without a GPU. Without cuBLASLt `library` is null.
  static absl::StatusOr<std::unique_ptr<GpuBench>> Create();

  // Makes sure that operations find so many bytes of scratch.
  void NeedScratch(int64_t n_bytes);
  // Random numbers in [-1, 1), as many as weights and caches take that no L2 cache holds.
  const Bf16* random() const { return reinterpret_cast<const Bf16*>(random_memory.data()); }

  CudaDeviceInfo info;
  CudaStream stream;
  std::unique_ptr<CudaDevice> device;          // our own kernels for everything
  std::unique_ptr<CudaDevice> library_device;  // large products by the library
  std::unique_ptr<CublasLt> library;
  CudaBuffer random_memory;
  CudaBuffer scratch;
  GpuLimits limits;
};

// Device memory for results, and with the values in it. A benchmark ends where there is none.
CudaBuffer Allocate(int64_t n_bytes);
CudaBuffer AllocateBytes(const void* values, int64_t n_bytes);
template <typename T>
CudaBuffer Upload(const std::vector<T>& values) {
  return AllocateBytes(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
}
template <typename T>
T* As(const CudaBuffer& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

// Microseconds of one launch, over the samples.
struct Timing {
  double median_us = 0;
  double p10_us = 0;
  double p90_us = 0;
};

// n_launches of them are one sample: recorded once as a graph, so that the time between launches is
// the device's, not the host's.
struct GpuWork {
  int64_t n_launches = 1;
  std::function<void(int64_t launch_idx)> launch;
};

// Times several pieces of work in turns, so that whatever slows the device down meets all of them.
std::vector<Timing> TimeInTurns(const GpuBench& bench, const std::vector<GpuWork>& works);
Timing Time(const GpuBench& bench, const GpuWork& work);

// figure NAME VALUE UNIT p10 A p90 B [limit L] [ratio R]: amount a launch over its time, beside the
// limit. The unit is 10^9 or 10^12 of the amount a second; value, A and B are rates.
void PrintGigabytes(const std::string& name, const Timing& timing, double n_bytes, double limit);
void PrintTeraflops(const std::string& name, const Timing& timing, double n_flops, double limit);
// figure NAME VALUE us p10 A p90 B [peer P ratio R]: R is P over the value, so more is better.
void PrintMicroseconds(const std::string& name, const Timing& timing, const Timing* peer = nullptr);

// The parts. Each prints its rows.
void BenchLimits(GpuBench& bench);
void BenchSkinnyMatMul(GpuBench& bench);
void BenchLargeMatMul(GpuBench& bench);
void BenchDecodeAttention(GpuBench& bench);
void BenchPrefillAttention(GpuBench& bench);
void BenchOperations(GpuBench& bench);
void BenchWgmma(GpuBench& bench);

}  // namespace bora
