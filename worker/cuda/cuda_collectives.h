// The collectives that Stage<CudaDevice> needs of a tensor-parallel group of GPUs. They are queued
// on the device's stream, or become part of the graph that is being recorded from it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/nccl/nccl_communicator.h"
#include "worker/stage/collectives.h"

namespace bora {

// Owned by the rank thread. Errors of the calls are NCCL's; all arrays are in device memory.
class CudaCollectives {
 public:
  // Bytes of device memory that AllReduceSum of up to `max_floats` floats needs as scratch.
  static int64_t ScratchBytes(int tp_size, int64_t max_floats);

  // For a group of one rank: AllReduceSum does nothing.
  CudaCollectives() = default;
  // For the tensor-parallel group of `place`, linked by `tensor`. With `deterministic`, sums are
  // made along the tree of kernels/cuda/sum_parts.h, so that 1, 2, 4 and 8 ranks give the same
  // bits; without, by NCCL, in an order that depends on the algorithm that it chooses. `scratch`
  // has ScratchBytes(). `device`, `tensor` and `scratch` must outlive this object.
  CudaCollectives(CudaDevice* device, NcclCommunicator* tensor, const RankPlace& place,
                  bool deterministic, uint8_t* scratch);

  // data <- the sum of `data` over the ranks of the group. [n], n equal on all ranks and a multiple
  // of their number.
  absl::Status AllReduceSum(absl::Span<float> data);

  // On tensor rank 0, all <- `local` of every rank in rank order; `all` is empty on the other
  // ranks. local: [n], all: [tp_size, n].
  // REQUIRES: the group has more than one rank.
  absl::Status GatherToFirst(absl::Span<const float> local, absl::Span<float> all);

 private:
  CudaDevice* device_ = nullptr;
  NcclCommunicator* tensor_ = nullptr;
  int tp_size_ = 1;
  int tp_rank_ = 0;
  bool deterministic_ = true;
  float* scratch_ = nullptr;  // data of other ranks until it is summed
};

}  // namespace bora
