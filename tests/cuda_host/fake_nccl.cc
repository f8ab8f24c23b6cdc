// A library with NCCL's interface, as far as kernels/nccl/nccl_abi.h declares it, whose ranks are
// threads or processes of one machine without a GPU. Data moves by memory that the ranks share; the
// work is queued on streams of tests/cuda_host/stream.h, whose functions the program must export.
//
// All-reduce adds fp32 in ascending order of ranks. Messages carry what they are: calls that do not
// match become an error of the communicator on the ranks that see it, and the work waits for ever,
// as it does when a rank is missing. Within a group the messages of two ranks are matched in the
// order of the calls, collectives with collectives and sends with receives.
//
// As NCCL does, ncclCommAbort ends what the communicator's own operations wait for and then waits
// until all that is queued on the streams that carried them has run.
//
// The environment, for tests of failures:
//   FAKE_NCCL_VERSION=N     the version that is told
//   FAKE_NCCL_HANG_AFTER=N  read at init: the communicator's N-th operation here (a group is one,
//   and
//                           each launch of a graph counts) does not complete before it is aborted
//   FAKE_NCCL_ABORT_HANGS=1 ncclCommAbort never returns, and ends no work
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <utility>

#include "tests/cuda_host/fake_nccl_rank.h"
#include "tests/cuda_host/stream.h"

using bora::cuda_host::NcclHeader;
using bora::cuda_host::NcclKind;
using bora::cuda_host::NcclRank;
using bora::cuda_host::NcclShared;
using bora::cuda_host::NcclTransfer;
using bora::nccl::Config;
using bora::nccl::DataType;
using bora::nccl::RedOp;
using bora::nccl::Result;
using bora::nccl::UniqueId;

// Queued work outlives it.
struct ncclComm {
  std::shared_ptr<NcclRank> rank;
};

namespace {

struct Operation {
  NcclKind kind;
  std::shared_ptr<NcclRank> rank;
  CUstream_st* stream;
  const void* send;
  void* recv;         // null: a send
  size_t part_bytes;  // of one rank
  int root = 0;       // or the peer
};

// The calls of this thread's open groups.
thread_local int group_depth = 0;
thread_local std::vector<Operation> group;
thread_local std::string last_error;

Result Fail(Result result, const std::string& message) {
  last_error = message;
  return result;
}

size_t BytesOf(DataType type) { return type == DataType::kFloat32 ? 4 : 1; }

// An operation while it runs.
class Run {
 public:
  explicit Run(const Operation& operation) : op_(operation) {
    NcclRank* const rank = op_.rank.get();
    const NcclHeader header = {op_.kind, 0, 0, op_.part_bytes};
    switch (op_.kind) {
      case NcclKind::kAllReduce:
        // The sum may replace what is added up: parts are kept until all have come.
        parts_.resize(op_.part_bytes * static_cast<size_t>(rank->n_ranks()));
        std::memcpy(Part(parts_.data(), rank->rank()), op_.send, op_.part_bytes);
        Exchange(header, parts_.data());
        break;
      case NcclKind::kAllGather:
        std::memmove(Part(op_.recv, rank->rank()), op_.send, op_.part_bytes);
        Exchange(header, op_.recv);
        break;
      case NcclKind::kBroadcast:
        Broadcast();
        break;
      case NcclKind::kSend:
        transfers_.push_back(op_.recv == nullptr
                                 ? NcclTransfer::Send(rank, op_.root, header, op_.send)
                                 : NcclTransfer::Recv(rank, op_.root, header, op_.recv));
        break;
    }
  }

  // True when there is nothing left to do.
  bool Try() {
    if (is_done_ || op_.rank->is_aborted()) return true;
    bool all_done = true;
    for (NcclTransfer& transfer : transfers_) all_done = transfer.Try() && all_done;
    if (all_done && op_.kind == NcclKind::kAllReduce) Add();
    is_done_ = all_done;
    return all_done;
  }

 private:
  uint8_t* Part(void* all, int rank) const {
    return static_cast<uint8_t*>(all) + op_.part_bytes * static_cast<size_t>(rank);
  }

  // This rank's part to all others, and theirs from them.
  void Exchange(const NcclHeader& header, void* all) {
    NcclRank* const rank = op_.rank.get();
    for (int peer = 0; peer < rank->n_ranks(); ++peer) {
      if (peer == rank->rank()) continue;
      transfers_.push_back(NcclTransfer::Send(rank, peer, header, Part(all, rank->rank())));
      transfers_.push_back(NcclTransfer::Recv(rank, peer, header, Part(all, peer)));
    }
  }

  void Broadcast() {
    NcclRank* const rank = op_.rank.get();
    const NcclHeader header = {op_.kind, op_.root, 0, op_.part_bytes};
    if (rank->rank() != op_.root) {
      transfers_.push_back(NcclTransfer::Recv(rank, op_.root, header, op_.recv));
      return;
    }
    for (int peer = 0; peer < rank->n_ranks(); ++peer) {
      if (peer == op_.root) continue;
      transfers_.push_back(NcclTransfer::Send(rank, peer, header, op_.send));
    }
    std::memmove(op_.recv, op_.send, op_.part_bytes);
  }

  void Add() {
    const size_t n = op_.part_bytes / sizeof(float);
    const auto* parts = reinterpret_cast<const float*>(parts_.data());
    auto* const sums = static_cast<float*>(op_.recv);
    for (size_t i = 0; i < n; ++i) {
      float sum = parts[i];
      for (size_t r = 1; r < static_cast<size_t>(op_.rank->n_ranks()); ++r) sum += parts[r * n + i];
      sums[i] = sum;
    }
  }

  const Operation& op_;
  std::vector<NcclTransfer> transfers_;
  std::vector<uint8_t> parts_;  // [n_ranks, part_bytes]
  bool is_done_ = false;
};

// One stream's operations of a group, advanced together. A graph runs it again and again.
class Group {
 public:
  explicit Group(std::vector<Operation> operations) : operations_(std::move(operations)) {}

  bool Try() {
    if (!has_begun_) Begin();
    if (hangs_) {
      for (const Operation& operation : operations_) {
        if (!operation.rank->is_aborted()) return false;
      }
    } else {
      bool all_done = true;
      for (Run& run : runs_) all_done = run.Try() && all_done;
      if (!all_done) return false;
    }
    runs_.clear();
    has_begun_ = false;
    return true;
  }

 private:
  void Begin() {
    has_begun_ = true;
    hangs_ = false;
    std::vector<const NcclRank*> seen;
    for (const Operation& operation : operations_) {
      if (operation.rank->is_aborted()) continue;
      if (std::find(seen.begin(), seen.end(), operation.rank.get()) != seen.end()) continue;
      seen.push_back(operation.rank.get());
      hangs_ = !operation.rank->BeginOperation() || hangs_;
    }
    if (hangs_) return;
    runs_.reserve(operations_.size());
    for (const Operation& operation : operations_) {
      if (!operation.rank->is_aborted()) runs_.emplace_back(operation);
    }
  }

  const std::vector<Operation> operations_;
  std::vector<Run> runs_;
  bool has_begun_ = false;
  bool hangs_ = false;
};

// NCCL's threads queue the work of communicators that do not block: the state is "in progress"
// once.
Result QueueGroup() {
  std::vector<Operation> operations = std::exchange(group, {});
  const Result result = operations.empty() ? Result::kSuccess : Result::kInProgress;
  while (!operations.empty()) {
    CUstream_st* const stream = operations[0].stream;
    const auto others =
        std::stable_partition(operations.begin(), operations.end(),
                              [stream](const Operation& op) { return op.stream == stream; });
    std::vector<Operation> mine(operations.begin(), others);
    operations.erase(operations.begin(), others);
    for (const Operation& operation : mine) operation.rank->n_polls_left = 1;
    bora::cuda_host::SubmitTry(
        stream, [run = std::make_shared<Group>(std::move(mine))] { return run->Try(); });
  }
  return result;
}

Result Queue(ncclComm* comm, Operation operation) {
  if (comm == nullptr) return Fail(Result::kInvalidArgument, "there is no communicator");
  NcclRank& rank = *comm->rank;
  if (rank.error() != Result::kSuccess) return rank.error();
  if (!rank.AllAttached() || rank.n_polls_left > 0) {
    return Fail(Result::kInvalidArgument, "the call before has not succeeded yet");
  }
  if (operation.root < 0 || operation.root >= rank.n_ranks()) {
    return Fail(Result::kInvalidArgument, "no rank " + std::to_string(operation.root));
  }
  if (operation.stream == nullptr) return Fail(Result::kInvalidArgument, "there is no stream");
  if (operation.part_bytes == 0 && operation.kind != NcclKind::kSend) return Result::kSuccess;
  operation.rank = comm->rank;
  rank.AddStream(operation.stream);
  group.push_back(std::move(operation));
  return group_depth > 0 ? Result::kSuccess : QueueGroup();
}

}  // namespace

extern "C" {

Result ncclGetVersion(int* version) {
  const char* const value = std::getenv("FAKE_NCCL_VERSION");
  *version = value == nullptr ? 22809 : std::atoi(value);
  return Result::kSuccess;
}

// The id is the name of a file that the first rank makes.
Result ncclGetUniqueId(UniqueId* id) {
  const char* folder = "/dev/shm";
  if (access(folder, W_OK) != 0) folder = std::getenv("TMPDIR");
  std::random_device random;
  *id = {};
  const int n =
      std::snprintf(id->internal, sizeof(id->internal), "%s/fake_nccl.%08x%08x%08x%08x",
                    folder == nullptr ? "/tmp" : folder, random(), random(), random(), random());
  if (n < static_cast<int>(sizeof(id->internal))) return Result::kSuccess;
  return Fail(Result::kSystemError, "the folder's name is too long");
}

Result ncclCommInitRankConfig(ncclComm** comm, int n_ranks, UniqueId id, int rank, Config* config) {
  *comm = nullptr;
  if (config == nullptr || config->magic != Config().magic || config->blocking != 0) {
    return Fail(Result::kInvalidArgument, "only communicators that do not block");
  }
  if (n_ranks < 1 || n_ranks > NcclShared::kMaxRanks || rank < 0 || rank >= n_ranks ||
      (config->max_ctas != bora::nccl::kUndefined && config->max_ctas <= 0)) {
    return Fail(Result::kInvalidArgument, "invalid rank or configuration");
  }
  Result result = Result::kSuccess;
  std::shared_ptr<NcclRank> attached =
      NcclRank::Attach(std::string(id.internal, strnlen(id.internal, sizeof(id.internal))), rank,
                       n_ranks, &result, &last_error);
  if (attached == nullptr) return result;
  *comm = new ncclComm{std::move(attached)};
  return Result::kInProgress;
}

Result ncclCommDestroy(ncclComm* comm) {
  delete comm;
  return Result::kSuccess;
}

Result ncclCommAbort(ncclComm* comm) {
  if (comm == nullptr) return Result::kSuccess;
  while (std::getenv("FAKE_NCCL_ABORT_HANGS") != nullptr) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  comm->rank->Abort();
  for (CUstream_st* const stream : comm->rank->streams()) bora::cuda_host::RunQueued(stream);
  delete comm;
  return Result::kSuccess;
}

Result ncclCommGetAsyncError(ncclComm* comm, Result* error) {
  NcclRank& rank = *comm->rank;
  *error = rank.error();
  if (*error != Result::kSuccess) return Result::kSuccess;
  if (!rank.AllAttached()) {
    *error = Result::kInProgress;
  } else if (rank.n_polls_left > 0) {
    --rank.n_polls_left;
    *error = Result::kInProgress;
  }
  return Result::kSuccess;
}

const char* ncclGetErrorString(Result result) {
  switch (result) {
    case Result::kSuccess:
      return "no error";
    case Result::kUnhandledCudaError:
      return "unhandled cuda error";
    case Result::kSystemError:
      return "unhandled system error";
    case Result::kInternalError:
      return "internal error";
    case Result::kInvalidArgument:
      return "invalid argument";
    case Result::kInvalidUsage:
      return "invalid usage";
    case Result::kRemoteError:
      return "remote process exited or there was a network error";
    case Result::kInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm* comm) {
  const bool has_own = comm != nullptr && comm->rank->error() != Result::kSuccess;
  return has_own ? comm->rank->message().c_str() : last_error.c_str();
}

Result ncclGroupStart() {
  ++group_depth;
  return Result::kSuccess;
}

Result ncclGroupEnd() {
  if (group_depth == 0) return Fail(Result::kInvalidUsage, "no group is open");
  return --group_depth > 0 ? Result::kSuccess : QueueGroup();
}

Result ncclAllReduce(const void* send, void* recv, size_t count, DataType type, RedOp op,
                     ncclComm* comm, CUstream_st* stream) {
  if (type != DataType::kFloat32 || op != RedOp::kSum) {
    return Fail(Result::kInvalidArgument, "only sums of fp32");
  }
  return Queue(comm, {NcclKind::kAllReduce, nullptr, stream, send, recv, count * BytesOf(type)});
}

Result ncclAllGather(const void* send, void* recv, size_t send_count, DataType type, ncclComm* comm,
                     CUstream_st* stream) {
  return Queue(comm,
               {NcclKind::kAllGather, nullptr, stream, send, recv, send_count * BytesOf(type)});
}

Result ncclBroadcast(const void* send, void* recv, size_t count, DataType type, int root,
                     ncclComm* comm, CUstream_st* stream) {
  return Queue(comm,
               {NcclKind::kBroadcast, nullptr, stream, send, recv, count * BytesOf(type), root});
}

Result ncclSend(const void* data, size_t count, DataType type, int peer, ncclComm* comm,
                CUstream_st* stream) {
  return Queue(comm,
               {NcclKind::kSend, nullptr, stream, data, nullptr, count * BytesOf(type), peer});
}

Result ncclRecv(void* data, size_t count, DataType type, int peer, ncclComm* comm,
                CUstream_st* stream) {
  return Queue(comm,
               {NcclKind::kSend, nullptr, stream, nullptr, data, count * BytesOf(type), peer});
}

}  // extern "C"
