// The memory of weights on a GPU. Weights are copied to it from pinned memory of the host, which
// the GPU reads without the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/runtime/cuda_runtime.h"
#include "worker/weights/device_weights.h"

namespace bora {

// Owned by the rank thread.
class CudaWeightMemory final : public DeviceMemory {
 public:
  // Copies are queued on `stream`, which must outlive the last call of Store or Wait.
  explicit CudaWeightMemory(const CudaStream* stream) : stream_(stream) {}

  absl::Status Allocate(int64_t n_bytes, int n_staging, int64_t staging_bytes) override;
  uint8_t* data() const override { return memory_.data(); }
  uint8_t* staging(int i) override { return staging_[i].data(); }
  void Store(int i, uint8_t* to, int64_t n_groups, int64_t group_bytes,
             int64_t stride_bytes) override;
  void Wait() override { stream_->Synchronize(); }
  void FreeStaging() override { staging_.clear(); }

 private:
  const CudaStream* const stream_;
  CudaBuffer memory_;
  std::vector<PinnedBuffer> staging_;
};

}  // namespace bora
