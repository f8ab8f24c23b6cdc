// The GPU that operations are queued on.
#pragma once

#include <cstdint>

#include "base/check.h"

struct CUstream_st;

namespace bora {

class MatrixLibrary;

// What operations fit their launches to. The defaults are those of an H100 or H200.
struct CudaLimits {
  int n_multiprocessors = 132;
  int64_t max_shared_bytes = 232448;  // of a block, as much as the driver permits
};

// Owned and used by one thread (the rank thread). Operations on it take addresses of device memory,
// 16-byte aligned, and return once they are queued on its stream, which must outlive it.
class CudaDevice {
 public:
  // stream: a cudaStream_t; null is CUDA's default stream.
  explicit CudaDevice(CUstream_st* stream, const CudaLimits& limits = {})
      : stream_(stream), limits_(limits) {}
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  CUstream_st* stream() const { return stream_; }
  const CudaLimits& limits() const { return limits_; }

  // Working memory of one operation at a time: what an operation leaves there is gone when the next
  // one is queued. The memory is device memory, 256-byte aligned, of at least the largest of the
  // operations' ...ScratchBytes, and outlives its use. An operation that needs more than there is
  // CHECK-fails.
  void SetScratch(uint8_t* data, int64_t n_bytes) {
    scratch_ = data;
    scratch_bytes_ = n_bytes;
  }
  uint8_t* Scratch(int64_t n_bytes) const {
    CHECK_LE(n_bytes, scratch_bytes_) << "bytes of scratch";
    return scratch_;
  }

  // A library that multiplies matrices of many rows faster than MatMul's own kernels do, though not
  // with the same bits at any number of rows. Null: everything is done by our own kernels. It must
  // outlive its use.
  void SetMatrixLibrary(MatrixLibrary* library) { matrix_library_ = library; }
  MatrixLibrary* matrix_library() const { return matrix_library_; }

 private:
  CUstream_st* const stream_;
  const CudaLimits limits_;
  uint8_t* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;
  MatrixLibrary* matrix_library_ = nullptr;
};

}  // namespace bora
