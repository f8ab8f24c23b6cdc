#include "kernels/cuda/runtime/matrix_library.h"

namespace bora {

absl::StatusOr<std::unique_ptr<MatrixLibrary>> OpenMatrixLibrary() {
  return absl::UnavailableError("there is no matrix library for CUDA on the CPU");
}

}  // namespace bora
