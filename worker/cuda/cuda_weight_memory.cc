#include "worker/cuda/cuda_weight_memory.h"

#include "base/status_macros.h"

namespace bora {

absl::Status CudaWeightMemory::Allocate(int64_t n_bytes, int n_staging, int64_t staging_bytes) {
  ASSIGN_OR_RETURN(memory_, CudaBuffer::Allocate(n_bytes, "weights"));
  // Zero, since padding rows are never written.
  FillDevice(stream_->get(), memory_.data(), 0, n_bytes);
  staging_.resize(n_staging);
  for (PinnedBuffer& staging : staging_) {
    ASSIGN_OR_RETURN(staging, PinnedBuffer::Allocate(staging_bytes, "weights on their way"));
  }
  return absl::OkStatus();
}

void CudaWeightMemory::Store(int i, uint8_t* to, int64_t n_groups, int64_t group_bytes,
                             int64_t stride_bytes) {
  if (n_groups == 1) {
    CopyToDevice(stream_->get(), to, staging_[i].data(), group_bytes);
  } else {
    CopyRowsToDevice(stream_->get(), to, stride_bytes, staging_[i].data(), group_bytes, n_groups);
  }
}

}  // namespace bora
