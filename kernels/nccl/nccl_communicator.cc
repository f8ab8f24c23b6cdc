#include "kernels/nccl/nccl_communicator.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// How a wait for NCCL's threads is divided. They queue most work within tens of microseconds, for
// which polling is worth a CPU; a new connection takes milliseconds and a peer may take any time,
// so after kYieldTime the wait sleeps, for longer each time.
constexpr absl::Duration kYieldTime = absl::Microseconds(100);
constexpr absl::Duration kShortestPause = absl::Microseconds(20);
constexpr absl::Duration kLongestPause = absl::Milliseconds(1);

}  // namespace

NcclCommunicator::NcclCommunicator(const NcclLibrary* library,
                                   const NcclCommunicatorOptions& options)
    : library_(library),
      options_(options),
      nccl_name_(std::make_shared<const std::string>(options.name)) {}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Connect(
    const NcclLibrary* library, const NcclCommunicatorOptions& options) {
  CHECK(options.n_ranks >= 1 && options.rank >= 0 && options.rank < options.n_ranks)
      << "rank " << options.rank << " of " << options.n_ranks;
  std::unique_ptr<NcclCommunicator> communicator(new NcclCommunicator(library, options));
  RETURN_IF_ERROR(communicator->Init());
  return communicator;
}

absl::Status NcclCommunicator::Init() {
  nccl::Config config;
  // Calls return at once, so that Finish can watch the deadline and is_cancelled.
  config.blocking = 0;
  if (options_.max_ctas > 0) config.max_ctas = options_.max_ctas;
  config.comm_name = nccl_name_->empty() ? nullptr : nccl_name_->c_str();
  nccl::UniqueId id;
  std::memcpy(&id, options_.id.data(), sizeof(id));

  const absl::MutexLock lock(&mutex_);
  const char* const function = "ncclCommInitRankConfig";
  const nccl::Result result =
      library_->api().CommInitRankConfig(&comm_, options_.n_ranks, id, options_.rank, &config);
  // Without a communicator there is no state to poll.
  if (comm_ == nullptr) {
    failed_ = library_->Error(Describe(function), result, nullptr);
  } else {
    failed_ = Finish(function, result, options_.deadline);
  }
  return failed_;
}

NcclCommunicator::~NcclCommunicator() {
  const bool is_healthy = AsyncError().ok();
  ncclComm* comm = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    std::swap(comm, comm_);
  }
  if (comm == nullptr) return;
  if (is_healthy) {
    library_->api().CommDestroy(comm);
  } else {
    library_->api().CommAbort(comm);
  }
}

absl::Status NcclCommunicator::AllReduceSum(CUstream_st* stream, float* data, int64_t n) {
  CHECK_GE(n, 0);
  const absl::MutexLock lock(&mutex_);
  if (n == 0) return failed_;
  return Queue("ncclAllReduce", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return library_->api().AllReduce(data, data, static_cast<size_t>(n), nccl::DataType::kFloat32,
                                     nccl::RedOp::kSum, comm_, stream);
  });
}

absl::Status NcclCommunicator::AllGather(CUstream_st* stream, const float* local, float* all,
                                         int64_t n_local) {
  CHECK_GE(n_local, 0);
  const absl::MutexLock lock(&mutex_);
  if (n_local == 0) return failed_;
  return Queue("ncclAllGather", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return library_->api().AllGather(local, all, static_cast<size_t>(n_local),
                                     nccl::DataType::kFloat32, comm_, stream);
  });
}

absl::Status NcclCommunicator::GatherTo(CUstream_st* stream, int root, const float* local,
                                        float* all, int64_t n_local) {
  CHECK_GE(n_local, 0);
  CHECK(root >= 0 && root < options_.n_ranks) << root;
  const absl::MutexLock lock(&mutex_);
  if (n_local == 0) return failed_;
  return Queue("gather by ncclSend and ncclRecv", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return SendAndRecvParts(stream, root, local, all, n_local);
  });
}

// The result is the first one that is neither success nor progress, if any.
nccl::Result NcclCommunicator::Grouped(absl::FunctionRef<void(Keep)> calls) {
  const nccl::Api& api = library_->api();
  nccl::Result result = api.GroupStart();
  if (result != nccl::Result::kSuccess) return result;
  // Keeps the first result that is neither success nor progress.
  const auto keep = [&result](nccl::Result next) {
    if (result == nccl::Result::kSuccess || result == nccl::Result::kInProgress) result = next;
  };
  calls(keep);
  keep(api.GroupEnd());
  return result;
}

// GatherTo by sends and receives, because ncclGather exists only from 2.28 on. The root sends its
// own part to itself unless that part is already in place.
nccl::Result NcclCommunicator::SendAndRecvParts(CUstream_st* stream, int root, const float* local,
                                                float* all, int64_t n_local) {
  const nccl::Api& api = library_->api();
  const size_t count = static_cast<size_t>(n_local);
  const bool is_root = options_.rank == root;
  const bool in_place = is_root && local == all + root * n_local;
  ncclComm* const comm = comm_;
  return Grouped([&](Keep keep) {
    if (!in_place) keep(api.Send(local, count, nccl::DataType::kFloat32, root, comm, stream));
    for (int peer = 0; is_root && peer < options_.n_ranks; ++peer) {
      if (peer == root && in_place) continue;
      keep(api.Recv(all + peer * n_local, count, nccl::DataType::kFloat32, peer, comm, stream));
    }
  });
}

absl::Status NcclCommunicator::AllToAll(CUstream_st* stream, const float* data, float* parts,
                                        int64_t n_each) {
  CHECK_GE(n_each, 0);
  const absl::MutexLock lock(&mutex_);
  if (n_each == 0) return failed_;
  return Queue("exchange by ncclSend and ncclRecv", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ExchangeParts(stream, data, parts, n_each);
  });
}

// AllToAll by one send and one receive per peer, the rank itself included.
nccl::Result NcclCommunicator::ExchangeParts(CUstream_st* stream, const float* data, float* parts,
                                             int64_t n_each) {
  const nccl::Api& api = library_->api();
  const size_t count = static_cast<size_t>(n_each);
  ncclComm* const comm = comm_;
  return Grouped([&](Keep keep) {
    for (int peer = 0; peer < options_.n_ranks; ++peer) {
      keep(api.Send(data + peer * n_each, count, nccl::DataType::kFloat32, peer, comm, stream));
      keep(api.Recv(parts + peer * n_each, count, nccl::DataType::kFloat32, peer, comm, stream));
    }
  });
}

absl::Status NcclCommunicator::Broadcast(CUstream_st* stream, int root, void* data,
                                         int64_t n_bytes) {
  CHECK_GE(n_bytes, 0);
  CHECK(root >= 0 && root < options_.n_ranks) << root;
  const absl::MutexLock lock(&mutex_);
  if (n_bytes == 0) return failed_;
  return Queue("ncclBroadcast", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return library_->api().Broadcast(data, data, static_cast<size_t>(n_bytes),
                                     nccl::DataType::kUint8, root, comm_, stream);
  });
}

absl::Status NcclCommunicator::Send(CUstream_st* stream, int peer, const void* data,
                                    int64_t n_bytes) {
  CHECK_GE(n_bytes, 0);
  CHECK(peer >= 0 && peer < options_.n_ranks && peer != options_.rank) << peer;
  const absl::MutexLock lock(&mutex_);
  if (n_bytes == 0) return failed_;
  return Queue("ncclSend", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return library_->api().Send(data, static_cast<size_t>(n_bytes), nccl::DataType::kUint8, peer,
                                comm_, stream);
  });
}

absl::Status NcclCommunicator::Recv(CUstream_st* stream, int peer, void* data, int64_t n_bytes) {
  CHECK_GE(n_bytes, 0);
  CHECK(peer >= 0 && peer < options_.n_ranks && peer != options_.rank) << peer;
  const absl::MutexLock lock(&mutex_);
  if (n_bytes == 0) return failed_;
  return Queue("ncclRecv", [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return library_->api().Recv(data, static_cast<size_t>(n_bytes), nccl::DataType::kUint8, peer,
                                comm_, stream);
  });
}

absl::Status NcclCommunicator::AsyncError() const {
  const absl::MutexLock lock(&mutex_);
  if (!failed_.ok()) return failed_;
  nccl::Result state = nccl::Result::kSuccess;
  const nccl::Result result = library_->api().CommGetAsyncError(comm_, &state);
  if (result != nccl::Result::kSuccess) state = result;
  if (state == nccl::Result::kSuccess || state == nccl::Result::kInProgress) {
    return absl::OkStatus();
  }
  return library_->Error(Describe("an operation failed"), state, comm_);
}

void NcclCommunicator::Abort() {
  const nccl::Api& api = library_->api();
  const std::shared_ptr<const std::string> name = nccl_name_;
  ncclComm* comm = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    if (failed_.ok()) failed_ = absl::AbortedError(Describe("aborted"));
    std::swap(comm, comm_);
  }
  // Without the lock and without use of this object, which may be destroyed meanwhile: NCCL may
  // keep the thread for ever.
  if (comm != nullptr) api.CommAbort(comm);
}

absl::Status NcclCommunicator::Queue(const char* function, absl::FunctionRef<nccl::Result()> call) {
  RETURN_IF_ERROR(failed_);
  const nccl::Result result = call();
  if (result != nccl::Result::kSuccess) {
    failed_ = Finish(function, result, SteadyNow() + options_.queue_timeout);
  }
  return failed_;
}

absl::Status NcclCommunicator::Finish(const char* function, nccl::Result result,
                                      SteadyTime deadline) {
  const SteadyTime begin = SteadyNow();
  absl::Duration pause = kShortestPause;
  // NCCL refuses a call before the previous call's work is queued, so this waits for that.
  while (result == nccl::Result::kInProgress) {
    nccl::Result state = nccl::Result::kSuccess;
    result = library_->api().CommGetAsyncError(comm_, &state);
    if (result == nccl::Result::kSuccess) result = state;
    if (result != nccl::Result::kInProgress) break;
    if (options_.is_cancelled && options_.is_cancelled()) {
      return absl::AbortedError(Describe(absl::StrCat(function, ": cancelled")));
    }
    const SteadyTime now = SteadyNow();
    if (now >= deadline) {
      return absl::DeadlineExceededError(Describe(absl::StrCat(
          function, ": not all ranks came within ", absl::FormatDuration(now - begin))));
    }
    if (now - begin < kYieldTime) {
      std::this_thread::yield();
      continue;
    }
    absl::SleepFor(std::min(pause, deadline - now));
    pause = std::min(2 * pause, kLongestPause);
  }
  if (result == nccl::Result::kSuccess) return absl::OkStatus();
  return library_->Error(Describe(function), result, comm_);
}

std::string NcclCommunicator::Describe(absl::string_view what) const {
  return absl::StrCat("NCCL ", options_.name, options_.name.empty() ? "" : " ", "rank ",
                      options_.rank, " of ", options_.n_ranks, ": ", what);
}

}  // namespace bora
