// One rank of a communicator of the test library in fake_nccl.cc: memory shared by the ranks, with
// a ring of bytes for each ordered pair of them, and the order of messages in the rings.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/nccl/nccl_abi.h"
#include "tests/cuda_host/byte_ring.h"

struct CUstream_st;

namespace bora::cuda_host {

enum class NcclKind : uint32_t { kAllReduce = 1, kAllGather, kBroadcast, kSend };

// In front of every message. The receiver knows what it must be.
struct NcclHeader {
  NcclKind kind;
  int32_t root;       // of a broadcast
  uint64_t n_before;  // messages of this pair
  uint64_t n_bytes;   // that follow
};

// The first page of the shared memory; the rings follow, [n_ranks (from), n_ranks (to)].
struct NcclShared {
  static constexpr int kMaxRanks = 64;
  static constexpr int64_t kBytes = 4096;

  std::atomic<uint32_t> n_attached;
  std::atomic<uint32_t> is_attached[kMaxRanks];
};
static_assert(sizeof(NcclShared) <= NcclShared::kBytes);

// Used by the thread that runs the rank's streams; what other threads may use says so.
class NcclRank {
 public:
  // Attaches to the file, and makes it if this rank is the first. Null after a failure: *result and
  // *message say which.
  static std::shared_ptr<NcclRank> Attach(const std::string& file, int rank, int n_ranks,
                                          nccl::Result* result, std::string* message);
  ~NcclRank();
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  int rank() const { return rank_; }
  int n_ranks() const { return n_ranks_; }

  // Of any thread.
  bool AllAttached() const;
  bool is_aborted() const { return is_aborted_.load(std::memory_order_acquire); }
  // Ends all waiting. The other ranks are not told.
  void Abort();

  // The streams that carried operations. Of any thread.
  void AddStream(CUstream_st* stream);
  std::vector<CUstream_st*> streams() const;

  // The first failure, kSuccess without; of any thread, as is its text after a failure.
  nccl::Result error() const { return error_.load(std::memory_order_acquire); }
  const std::string& message() const { return message_; }
  void Fail(nccl::Result error, const std::string& message);

  // How often the state is still "in progress" after a call. Of any thread.
  std::atomic<int> n_polls_left = 0;

  // Begins an operation; false for the one that hangs by FAKE_NCCL_HANG_AFTER.
  bool BeginOperation() { return ++n_operations_ != hang_after_; }

  ByteRing& ring(int from, int to) const { return rings_[from * n_ranks_ + to]; }
  // A peer's messages go one after another: those that were begun, and those that are through.
  struct Order {
    uint64_t n_begun = 0;
    uint64_t n_done = 0;
  };
  Order& sends(int peer) { return sends_[static_cast<size_t>(peer)]; }
  Order& recvs(int peer) { return recvs_[static_cast<size_t>(peer)]; }

 private:
  NcclRank(std::string file, int rank, int n_ranks);

  const std::string file_;
  const int rank_;
  const int n_ranks_;
  const int64_t hang_after_;
  NcclShared* shared_ = nullptr;
  ByteRing* rings_ = nullptr;
  int64_t n_operations_ = 0;
  std::vector<Order> sends_;
  std::vector<Order> recvs_;
  mutable std::mutex streams_mutex_;
  std::vector<CUstream_st*> streams_;
  std::atomic<bool> is_aborted_ = false;
  std::atomic<nccl::Result> error_ = nccl::Result::kSuccess;
  std::string message_;
};

// One message on its way, from or to memory of the operation.
class NcclTransfer {
 public:
  static NcclTransfer Send(NcclRank* rank, int peer, NcclHeader header, const void* data);
  static NcclTransfer Recv(NcclRank* rank, int peer, NcclHeader header, void* data);

  // Moves what can be moved; true when all has been. A message that is not the expected one makes
  // the rank fail and is never through.
  bool Try();

 private:
  NcclTransfer(NcclRank* rank, int peer, const NcclHeader& header)
      : rank_(rank), peer_(peer), header_(header) {}
  bool TrySend();
  bool TryRecv();

  NcclRank* rank_;
  int peer_;
  NcclHeader header_;
  bool is_send_ = false;
  const uint8_t* from_ = nullptr;  // of a send
  uint8_t* to_ = nullptr;
  NcclHeader received_ = {};
  uint64_t n_header_bytes_ = 0;  // moved, as n_bytes_
  uint64_t n_bytes_ = 0;
  bool is_done_ = false;
};

}  // namespace bora::cuda_host
