// One rank's end of an NCCL communicator: a fixed set of ranks, each with a GPU of its own, that
// exchange data by work on their streams.
//
// Order. The ranks queue the same operations with the same sizes in the same order. All of a
// communicator's operations go to one stream. An operation holds its stream until the peers have
// reached theirs, so two communicators that point in opposite directions need two streams, and so
// do a send and a receive that wait for each other.
//
// Graphs. While the stream is being captured the same calls become part of the graph. NCCL counts
// the graphs that hold a communicator's operations: its end and Abort both wait in NCCL until those
// graphs have ended.
//
// Failure. A peer that died or stopped is not noticed: the stream does not go on until Abort. What
// NCCL does notice (a broken connection) AsyncError tells; the stream does not go on either.
// Statuses, besides those of NcclLibrary::Error:
//   DEADLINE_EXCEEDED  a peer did not come to Connect, or did not let a call queue its work.
//   ABORTED            is_cancelled said so, or Abort was called.
// After an error every later operation returns it again, and the way on is a new communicator.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kernels/nccl/nccl_library.h"

namespace bora {

struct NcclCommunicatorOptions {
  NcclId id = {};  // of MakeId, the same on all ranks
  int rank = 0;
  int n_ranks = 1;
  std::string name;                                    // for errors and NCCL's own log
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // of Connect
  // How long a call may take until its work is queued. The first operation between two ranks makes
  // their connection and so waits for the peer's call.
  absl::Duration queue_timeout = absl::Minutes(1);
  int max_ctas = 0;  // most thread blocks of an operation; 0: NCCL's choice
  // Asked while Connect or an operation waits on the CPU, by its thread; empty: never.
  std::function<bool()> is_cancelled;
};

// Owned by the rank's thread, whose GPU it uses. AsyncError and Abort may come from any thread.
class NcclCommunicator {
 public:
  // Meets the other ranks; returns when all have come. The library must outlive the communicator.
  // What has been begun is aborted on failure.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(
      const NcclLibrary* library, const NcclCommunicatorOptions& options);

  // The work must be done and no graph with it left. Destroys a healthy communicator, which waits
  // for the stream, and aborts one that has failed.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Each queues work on the stream and returns; memory is the GPU's and must stay until the work is
  // done. Counts are not negative and the same on all ranks that take part; 0 queues nothing.

  // data of all ranks becomes the sum over the ranks in NCCL's order: repeatable only for the same
  // ranks, sizes and machine. data: [n]
  absl::Status AllReduceSum(CUstream_st* stream, float* data, int64_t n);
  // local may be the rank's own part of all, or lie outside of it.
  absl::Status AllGather(CUstream_st* stream, const float* local,  // [n_local]
                         float* all,                               // [n_ranks, n_local]
                         int64_t n_local);
  // As AllGather to one rank only; the others' `all` is not looked at.
  absl::Status GatherTo(CUstream_st* stream, int root, const float* local,  // [n_local]
                        float* all,                                         // [n_ranks, n_local]
                        int64_t n_local);
  // parts[i] of rank j becomes data[j] of rank i.
  absl::Status AllToAll(CUstream_st* stream, const float* data,  // [n_ranks, n_each]
                        float* parts,                            // [n_ranks, n_each]
                        int64_t n_each);
  absl::Status Broadcast(CUstream_st* stream, int root, void* data, int64_t n_bytes);
  absl::Status Send(CUstream_st* stream, int peer, const void* data, int64_t n_bytes);
  absl::Status Recv(CUstream_st* stream, int peer, void* data, int64_t n_bytes);

  // OK while nothing is known to have failed. Waits while the owner is inside a call.
  absl::Status AsyncError() const;

  // Ends queued operations, whose results are undefined, and refuses new ones. Waits while the
  // owner is inside a call, which is_cancelled ends. It may take for ever in NCCL: the caller has a
  // watchdog that ends the process then. Meanwhile the other calls return ABORTED, and the
  // communicator may end.
  void Abort();

  int rank() const { return options_.rank; }
  int n_ranks() const { return options_.n_ranks; }
  const std::string& name() const { return options_.name; }

 private:
  NcclCommunicator(const NcclLibrary* library, const NcclCommunicatorOptions& options);

  absl::Status Init();
  using Keep = absl::FunctionRef<void(nccl::Result)>;
  nccl::Result Grouped(absl::FunctionRef<void(Keep)> calls);
  nccl::Result SendAndRecvParts(CUstream_st* stream, int root, const float* local, float* all,
                                int64_t n_local) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  nccl::Result ExchangeParts(CUstream_st* stream, const float* data, float* parts, int64_t n_each)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the call of NCCL and waits until its work is queued. A failure is kept.
  absl::Status Queue(const char* function, absl::FunctionRef<nccl::Result()> call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What became of a call that returned `result`, when NCCL's own threads are done with it.
  absl::Status Finish(const char* function, nccl::Result result, SteadyTime deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // "NCCL tp rank 1 of 4: what".
  std::string Describe(absl::string_view what) const;

  const NcclLibrary* const library_;
  const NcclCommunicatorOptions options_;
  // NCCL keeps a pointer to it, also in an Abort that outlives this object.
  const std::shared_ptr<const std::string> nccl_name_;
  mutable absl::Mutex mutex_;
  ncclComm* comm_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null after Abort
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
