// The NCCL of tests that are linked twice: NCCL itself on a GPU, and on the CPU the library that
// has its interface (BORA_FAKE_NCCL, its path).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/nccl/nccl_library.h"

namespace bora {

inline absl::StatusOr<std::unique_ptr<NcclLibrary>> OpenTestNccl() {
#ifdef BORA_FAKE_NCCL
  return NcclLibrary::Open(BORA_FAKE_NCCL);
#else
  return NcclLibrary::Open();
#endif
}

}  // namespace bora
