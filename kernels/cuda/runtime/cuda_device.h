// The GPU as operations see it: a stream to queue work on, its limits and working memory.
#pragma once

#include <cstdint>

#include "base/check.h"

struct CUstream_st;

namespace bora {

class MatrixLibrary;

// The properties of a GPU that operations fit their launches to. The defaults are those of an H100
// or H200.
struct CudaLimits {
  int n_multiprocessors = 132;
  int64_t max_shared_bytes = 232448;  // most bytes of shared memory that the driver permits a block
};

// Owned and used by one thread (the rank thread). Operations take addresses of device memory,
// 16-byte aligned, and return once their work is queued on the device's stream.
class CudaDevice {
 public:
  // stream: a cudaStream_t that must outlive this object; null is CUDA's default stream.
  explicit CudaDevice(CUstream_st* stream, const CudaLimits& limits = {})
      : stream_(stream), limits_(limits) {}
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  CUstream_st* stream() const { return stream_; }
  const CudaLimits& limits() const { return limits_; }

  // Sets the working memory of operations: device memory, 256-byte aligned, of at least the largest
  // of the operations' ...ScratchBytes. It must outlive its use. Its contents are lost when the
  // next operation is queued.
  void SetScratch(uint8_t* data, int64_t n_bytes) {
    scratch_ = data;
    scratch_bytes_ = n_bytes;
  }
  // Working memory for one operation. A request for more than SetScratch has set ends the process.
  uint8_t* Scratch(int64_t n_bytes) const {
    CHECK_LE(n_bytes, scratch_bytes_) << "bytes of scratch";
    return scratch_;
  }

  // Sets a library that multiplies matrices of many rows faster than MatMul's own kernels, but
  // whose bits depend on the number of rows. Null: MatMul's own kernels do everything. It must
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
