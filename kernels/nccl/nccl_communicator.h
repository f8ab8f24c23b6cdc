// One rank's end of an NCCL communicator: a fixed set of ranks, each with a GPU of its own, that
// exchange data by operations queued on their streams.
//
// Order. All ranks must queue the same operations with the same sizes in the same order. All
// operations of a communicator go to one stream. An operation blocks its stream until the peers
// have reached theirs, so two communicators that point in opposite directions need two streams, and
// so do a send and a receive that wait for each other.
//
// Graphs. While the stream is being captured, the same calls become part of the graph. NCCL counts
// the graphs that hold a communicator's operations: destruction and Abort both wait inside NCCL
// until those graphs have been destroyed.
//
// Failure. A peer that died or stopped is not noticed: the stream stands still until Abort. A
// failure that NCCL does notice (a broken connection) is reported by AsyncError; the stream stands
// still then, too. Statuses, besides those of NcclLibrary::Error:
//   DEADLINE_EXCEEDED  a peer did not come to Connect, or did not let a call queue its work.
//   ABORTED            is_cancelled returned true, or Abort was called.
// After an operation has returned an error, every later one returns the same error. To go on, make
// a new communicator.
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
  NcclId id = {};  // from NcclLibrary::MakeId, the same on all ranks
  int rank = 0;
  int n_ranks = 1;
  std::string name;                                    // for error messages and NCCL's own log
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // for Connect
  // How long a call may take until its work is queued. The first operation between two ranks makes
  // their connection, so it waits for the peer's call.
  absl::Duration queue_timeout = absl::Minutes(1);
  int max_ctas = 0;  // most thread blocks of an operation; 0: NCCL's choice
  // Called while Connect or an operation waits on the CPU, by the waiting thread; true ends the
  // wait with ABORTED. Empty: never cancelled.
  std::function<bool()> is_cancelled;
};

// Owned and used by the rank's thread, whose current GPU it uses. AsyncError and Abort may be
// called by any thread.
class NcclCommunicator {
 public:
  // Connects to the other ranks; returns when all of them have called Connect with the same id. The
  // library must outlive the communicator. Errors: DEADLINE_EXCEEDED, ABORTED and those of
  // NcclLibrary::Error; a failed connection is aborted.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(
      const NcclLibrary* library, const NcclCommunicatorOptions& options);

  // Destroys a healthy communicator, which waits for the stream, or aborts a failed one.
  // REQUIRES: all queued work is done, and no graph with this communicator's operations is left.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // The operations. Each queues its work on the stream and returns. Pointers are to memory of the
  // rank's GPU, which must stay valid until the work is done. Counts are >= 0 and the same on all
  // ranks that take part; 0 queues nothing.

  // data, [n], of all ranks becomes the sum over the ranks, added in NCCL's order: repeatable only
  // for the same ranks, sizes and machine.
  absl::Status AllReduceSum(CUstream_st* stream, float* data, int64_t n);
  // Every rank gets all ranks' `local`, by rank. local may be the rank's own part of `all`, or lie
  // outside of it.
  absl::Status AllGather(CUstream_st* stream, const float* local,  // [n_local]
                         float* all,                               // [n_ranks, n_local]
                         int64_t n_local);
  // AllGather to the rank `root` only; the other ranks' `all` is not used.
  absl::Status GatherTo(CUstream_st* stream, int root, const float* local,  // [n_local]
                        float* all,                                         // [n_ranks, n_local]
                        int64_t n_local);
  // parts[i] of rank j becomes data[j] of rank i. data and parts must not overlap.
  absl::Status AllToAll(CUstream_st* stream, const float* data,  // [n_ranks, n_each]
                        float* parts,                            // [n_ranks, n_each]
                        int64_t n_each);
  // data, [n_bytes], of all ranks becomes root's.
  absl::Status Broadcast(CUstream_st* stream, int root, void* data, int64_t n_bytes);
  // Send and Recv move n_bytes to or from one other rank, whose counterpart must be queued as well.
  absl::Status Send(CUstream_st* stream, int peer, const void* data, int64_t n_bytes);
  absl::Status Recv(CUstream_st* stream, int peer, void* data, int64_t n_bytes);

  // OK while no failure is known; otherwise the failure. Blocks while the owner is inside a call.
  absl::Status AsyncError() const;

  // Ends all queued operations, whose results are then undefined, and refuses new ones. Blocks
  // while the owner is inside a call, which is_cancelled can end. It may take for ever inside NCCL:
  // the caller needs a watchdog that ends the process. In the meantime the other calls return
  // ABORTED, and the communicator may be destroyed.
  void Abort();

  int rank() const { return options_.rank; }
  int n_ranks() const { return options_.n_ranks; }
  const std::string& name() const { return options_.name; }

 private:
  NcclCommunicator(const NcclLibrary* library, const NcclCommunicatorOptions& options);

  // Makes the NCCL communicator; called once, by Connect.
  absl::Status Init();
  // Calls `calls` between ncclGroupStart and ncclGroupEnd. `calls` passes every result to Keep; the
  // first failure, if any, is returned.
  using Keep = absl::FunctionRef<void(nccl::Result)>;
  nccl::Result Grouped(absl::FunctionRef<void(Keep)> calls);
  nccl::Result SendAndRecvParts(CUstream_st* stream, int root, const float* local, float* all,
                                int64_t n_local) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  nccl::Result ExchangeParts(CUstream_st* stream, const float* data, float* parts, int64_t n_each)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes a call of NCCL and waits until its work is queued. A failure is kept in failed_.
  // function: the call's name for messages.
  absl::Status Queue(const char* function, absl::FunctionRef<nccl::Result()> call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until NCCL's own threads are done with a call that returned `result`, at most until the
  // deadline. Returns the call's outcome.
  absl::Status Finish(const char* function, nccl::Result result, SteadyTime deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A message such as "NCCL tp rank 1 of 4: what".
  std::string Describe(absl::string_view what) const;

  const NcclLibrary* const library_;
  const NcclCommunicatorOptions options_;
  // NCCL keeps a pointer to the name, even during an Abort that outlives this object.
  const std::shared_ptr<const std::string> nccl_name_;
  mutable absl::Mutex mutex_;
  ncclComm* comm_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null after Abort or a failed start
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);       // the first failure, or OK
};

}  // namespace bora
