// Matrix products by a library, for products of so many rows that arithmetic bounds them.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/packed_weight.h"

namespace bora {

// Owned by the thread that owns the device.
class MatrixLibrary {
 public:
  MatrixLibrary() = default;
  virtual ~MatrixLibrary() = default;
  MatrixLibrary(const MatrixLibrary&) = delete;
  MatrixLibrary& operator=(const MatrixLibrary&) = delete;

  // Prepares products with matrices of w's shape and up to max_rows rows of x: what MatMul will use
  // is chosen here, once, and nothing is chosen or allocated later.
  virtual void Prepare(const PackedWeight& w, int64_t max_rows) = 0;

  // y[m, n] = sum_k x[m, k] w[n, k], as kernels/matmul.h says, but for the order of the sums. x:
  // [m, w.n_cols], y: [m, w.n_rows]; all in device memory. Queued on the device's stream.
  virtual void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
                      float* y) = 0;
};

// The library of the calling thread's GPU. UNAVAILABLE says what is missing.
absl::StatusOr<std::unique_ptr<MatrixLibrary>> OpenMatrixLibrary();

}  // namespace bora
