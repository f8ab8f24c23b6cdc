// The interface of a library for matrix products of many rows, which are bound by arithmetic.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/packed_weight.h"

namespace bora {

// Owned and called by the thread that owns the device.
class MatrixLibrary {
 public:
  MatrixLibrary() = default;
  virtual ~MatrixLibrary() = default;
  MatrixLibrary(const MatrixLibrary&) = delete;
  MatrixLibrary& operator=(const MatrixLibrary&) = delete;

  // Prepares products with matrices of w's shape and up to max_rows rows of x. All choices and
  // allocations for these products happen here, once; MatMul makes none.
  virtual void Prepare(const PackedWeight& w, int64_t max_rows) = 0;

  // y[m, n] = sum_k x[m, k] w[n, k], as in kernels/matmul.h except for the order of the sums. x:
  // [m, w.n_cols]. y: [m, w.n_rows]. All are in device memory; the work is queued on the device's
  // stream.
  // REQUIRES: Prepare was called for w's shape with at least m rows.
  virtual void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
                      float* y) = 0;
};

// Opens this build's library for the calling thread's GPU. UNAVAILABLE if there is none; the
// message says what is missing. RESOURCE_EXHAUSTED if there is no GPU memory for it.
absl::StatusOr<std::unique_ptr<MatrixLibrary>> OpenMatrixLibrary();

}  // namespace bora
