// NVIDIA's cuBLASLt as the library for large matrix products. It is opened at run time, so that
// programs start on hosts that lack it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cuda/runtime/matrix_library.h"

namespace bora {

// Owned by the thread that owns the device, and used on one stream at a time: the products share
// working memory.
class CublasLt : public MatrixLibrary {
 public:
  // The library for the calling thread's GPU. file: where it is, empty for the place where the
  // system's loader finds it. UNAVAILABLE names the library: it is not there, it is of another
  // major version than this build's headers, or it finds no GPU that it can use. RESOURCE_EXHAUSTED
  // when there is no GPU memory for its working memory, 32 MiB.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create(const std::string& file = "");
  ~CublasLt() override;

  // "13.1.0".
  std::string version() const;

  // One algorithm for each power of two of rows up to max_rows: the first that the library's
  // heuristics propose. Nothing is timed, so that all ranks and all runs on one kind of GPU choose
  // the same. w must be bf16 in rows, as MatMul on a CudaDevice takes it. A shape that has been
  // prepared for as many rows costs nothing.
  void Prepare(const PackedWeight& w, int64_t max_rows) override;

  // A product of m rows uses the algorithm of the next power of two, so its bits depend on m
  // through that choice. The shape must have been prepared for at least m rows; x and y are 16-byte
  // aligned, w 256-byte. The driver loads a kernel's code at its first use.
  void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
              float* y) override;

 private:
  struct State;
  explicit CublasLt(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace bora
