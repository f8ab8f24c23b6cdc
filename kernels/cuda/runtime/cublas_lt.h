// NVIDIA's cuBLASLt as the library for large matrix products. It is opened at run time, so that
// programs start on hosts that lack it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cuda/runtime/matrix_library.h"

namespace bora {

// Owned by the thread that owns the device.
// REQUIRES: products are queued on one stream at a time, because they share working memory.
class CublasLt : public MatrixLibrary {
 public:
  // Opens the library for the calling thread's GPU. file: its path; empty: where the system's
  // loader finds it. UNAVAILABLE names the library if it is missing, has another major version than
  // this build's headers, or finds no GPU that it can use. RESOURCE_EXHAUSTED if there is no GPU
  // memory for its working memory, 32 MiB.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create(const std::string& file = "");
  ~CublasLt() override;

  // The library's version, such as "13.1.0".
  std::string version() const;

  // Chooses one algorithm for each power of two of rows up to the first that is at least max_rows:
  // the first that the library's heuristics propose. Nothing is timed, so all ranks and all runs on
  // one kind of GPU choose the same algorithms. A shape that has been prepared for as many rows
  // already costs nothing.
  // REQUIRES: w is bf16 in layout kRows or kGatedRows; max_rows > 0.
  void Prepare(const PackedWeight& w, int64_t max_rows) override;

  // A product of m rows uses the algorithm of the next power of two, so its bits depend on m
  // through that choice. The driver loads a kernel's code at its first use.
  // REQUIRES: the shape was prepared for at least m rows; x and y are 16-byte aligned and w is
  // 256-byte aligned.
  void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
              float* y) override;

 private:
  struct State;
  explicit CublasLt(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace bora
