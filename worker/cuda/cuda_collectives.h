// What Stage<CudaDevice> asks of a tensor-parallel group of GPUs, queued on the device's stream.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/nccl/nccl_communicator.h"
#include "worker/stage/collectives.h"

namespace bora {

// Owned by the rank thread.
class CudaCollectives {
 public:
  // Working memory for sums of up to max_floats over the group, in bytes.
  static int64_t ScratchBytes(int tp_size, int64_t max_floats);

  // A group of one: nothing to do.
  CudaCollectives() = default;
  // With `deterministic` sums are made along the tree of kernels/cuda/sum_parts.h, so that 1, 2, 4
  // and 8 ranks give the same bits; otherwise by NCCL, in an order that depends on its choice of
  // algorithm. `scratch` (ScratchBytes of device memory) and all else outlive this object.
  CudaCollectives(CudaDevice* device, NcclCommunicator* tensor, const RankPlace& place,
                  bool deterministic, uint8_t* scratch);

  // data <- sum over the group. [n], n equal on all ranks and a multiple of their number.
  absl::Status AllReduceSum(absl::Span<float> data);

  // all <- the parts of all ranks in order, on tensor rank 0; `all` is empty on the others. local:
  // [n], all: [tp_size, n].
  absl::Status GatherToFirst(absl::Span<const float> local, absl::Span<float> all);

 private:
  CudaDevice* device_ = nullptr;
  NcclCommunicator* tensor_ = nullptr;
  int tp_size_ = 1;
  int tp_rank_ = 0;
  bool deterministic_ = true;
  float* scratch_ = nullptr;
};

}  // namespace bora
