// How the GPUs of a group are linked: NCCL communicators that one rank takes part in, each of its
// own so that traffic of one kind never waits behind another.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "kernels/nccl/nccl_communicator.h"
#include "worker/stage/collectives.h"

namespace bora {

// Owned by the rank thread.
struct CudaLinks {
  // The ranks of a stage in order; null with one.
  std::unique_ptr<NcclCommunicator> tensor;
  // The same tensor rank of the stage before (rank 0 there) and this one (rank 1); null on the
  // first stage.
  std::unique_ptr<NcclCommunicator> before;
  // This stage (rank 0) and the one after (rank 1); null on the last stage.
  std::unique_ptr<NcclCommunicator> after;
  // The sampler (rank 0) and the ranks of the first stage in order: sampled tokens. Null with one
  // stage, whose tensor group does it, and on ranks that are neither.
  std::unique_ptr<NcclCommunicator> feedback;

  // The failure of any of them, as far as NCCL knows one.
  absl::Status AsyncError() const;
  // Ends what is queued on them, with undefined contents. NCCL may block here.
  void Abort();
};

// Links a rank with its peers: the id of each communicator is made by one of its ranks and reaches
// the others over `mesh`, whose links are authenticated for the epoch, so nobody else can join.
// Each communicator carries one small transfer before this returns: NCCL connects when it is first
// used, and nothing should be found out in the middle of a step. `stream` is used for these.
//
// Every rank of the group must call it. DEADLINE_EXCEEDED names the communicator that did not come
// about; errors of the mesh when a peer has gone or the epoch was aborted; errors of NCCL.
absl::StatusOr<CudaLinks> ConnectCudaLinks(const NcclLibrary& library, const RankPlace& place,
                                           int64_t epoch, Mesh* mesh, const CudaStream& stream,
                                           SteadyTime deadline);

}  // namespace bora
