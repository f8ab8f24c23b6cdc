// How the GPUs of a group are linked: the NCCL communicators that one rank takes part in. Each kind
// of traffic has a communicator of its own, so that it never waits behind another kind.
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
  // The ranks of this rank's stage, in the order of their tensor ranks; null if there is only one.
  std::unique_ptr<NcclCommunicator> tensor;
  // The same tensor rank of the stage before (rank 0 of the communicator) and this rank (rank 1);
  // null on the first stage.
  std::unique_ptr<NcclCommunicator> before;
  // This rank (rank 0) and the same tensor rank of the stage after (1); null on the last stage.
  std::unique_ptr<NcclCommunicator> after;
  // The sampler (rank 0) and the ranks of the first stage in the order of their tensor ranks, for
  // sampled tokens. Null on other ranks, and if there is one stage, which uses `tensor` for them.
  std::unique_ptr<NcclCommunicator> feedback;

  // The first failure that NCCL knows of in any of the communicators; OK if there is none. NCCL
  // does not notice every dead peer.
  absl::Status AsyncError() const;
  // Ends all queued transfers; the contents of their buffers are undefined then. May block in NCCL
  // for ever: the process must have a watchdog.
  void Abort();
};

// Links a rank with its peers. One rank of each communicator makes its id and sends it to the
// others over `mesh`, whose links are authenticated for the epoch, so that no other process can
// join. Each kind of transfer is tried once, on `stream`, before this returns: NCCL connects at the
// first use, and a failure should not be found in the middle of a step.
//
// Blocks until all ranks of the group have called it with the same epoch; they all must.
// DEADLINE_EXCEEDED names the communicator that was not complete at `deadline`; errors of the mesh
// if a peer is gone or the epoch was aborted; errors of NCCL; INTERNAL if a first transfer failed.
// REQUIRES: the group has more than one rank.
absl::StatusOr<CudaLinks> ConnectCudaLinks(const NcclLibrary& library, const RankPlace& place,
                                           int64_t epoch, Mesh* mesh, const CudaStream& stream,
                                           SteadyTime deadline);

}  // namespace bora
