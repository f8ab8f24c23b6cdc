#include "tests/cuda_host/fake_nccl_rank.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace bora::cuda_host {
namespace {

size_t SharedBytes(int n_ranks) {
  return NcclShared::kBytes +
         static_cast<size_t>(n_ranks) * static_cast<size_t>(n_ranks) * sizeof(ByteRing);
}

int64_t HangAfter() {
  const char* const value = std::getenv("FAKE_NCCL_HANG_AFTER");
  return value == nullptr ? -1 : std::atoll(value);
}

const char* NameOf(NcclKind kind) {
  switch (kind) {
    case NcclKind::kAllReduce:
      return "all-reduce";
    case NcclKind::kAllGather:
      return "all-gather";
    case NcclKind::kBroadcast:
      return "broadcast";
    case NcclKind::kSend:
      return "send";
  }
  return "something else";
}

std::string TextOf(const NcclHeader& header) {
  return std::string(NameOf(header.kind)) + " from root " + std::to_string(header.root) + " of " +
         std::to_string(header.n_bytes) + " bytes as message " + std::to_string(header.n_before);
}

bool IsSame(const NcclHeader& a, const NcclHeader& b) {
  return a.kind == b.kind && a.root == b.root && a.n_before == b.n_before && a.n_bytes == b.n_bytes;
}

// The file's memory, which the first rank gives its size; null with errno otherwise. EINVAL: the
// file was made for another number of ranks.
void* Map(const std::string& file, int n_ranks) {
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return nullptr;
  void* data = MAP_FAILED;
  struct stat status = {};
  const auto n_bytes = static_cast<off_t>(SharedBytes(n_ranks));
  if (flock(fd, LOCK_EX) == 0 && fstat(fd, &status) == 0) {
    if (status.st_size != 0 && status.st_size != n_bytes) {
      errno = EINVAL;
    } else if (status.st_size != 0 || ftruncate(fd, n_bytes) == 0) {
      data = mmap(nullptr, SharedBytes(n_ranks), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
  }
  const int error = errno;
  flock(fd, LOCK_UN);  // the mapping would keep it
  close(fd);
  errno = error;
  return data == MAP_FAILED ? nullptr : data;
}

}  // namespace

NcclRank::NcclRank(std::string file, int rank, int n_ranks)
    : file_(std::move(file)),
      rank_(rank),
      n_ranks_(n_ranks),
      hang_after_(HangAfter()),
      sends_(static_cast<size_t>(n_ranks)),
      recvs_(static_cast<size_t>(n_ranks)) {}

std::shared_ptr<NcclRank> NcclRank::Attach(const std::string& file, int rank, int n_ranks,
                                           nccl::Result* result, std::string* message) {
  std::shared_ptr<NcclRank> attached(new NcclRank(file, rank, n_ranks));
  void* const data = Map(file, n_ranks);
  if (data == nullptr) {
    *result = errno == EINVAL ? nccl::Result::kInvalidArgument : nccl::Result::kSystemError;
    *message = file + ": " + (errno == EINVAL ? "another number of ranks" : std::strerror(errno));
    return nullptr;
  }
  attached->shared_ = static_cast<NcclShared*>(data);
  attached->rings_ = reinterpret_cast<ByteRing*>(static_cast<uint8_t*>(data) + NcclShared::kBytes);
  if (attached->shared_->is_attached[rank].exchange(1) != 0) {
    *result = nccl::Result::kInvalidArgument;
    *message = file + ": rank " + std::to_string(rank) + " came twice";
    return nullptr;
  }
  // Nobody else needs the name then.
  if (attached->shared_->n_attached.fetch_add(1) + 1 == static_cast<uint32_t>(n_ranks)) {
    unlink(file.c_str());
  }
  return attached;
}

NcclRank::~NcclRank() {
  if (shared_ != nullptr) munmap(shared_, SharedBytes(n_ranks_));
}

bool NcclRank::AllAttached() const {
  return shared_->n_attached.load(std::memory_order_acquire) == static_cast<uint32_t>(n_ranks_);
}

void NcclRank::Abort() {
  if (!AllAttached()) unlink(file_.c_str());
  is_aborted_.store(true, std::memory_order_release);
}

void NcclRank::AddStream(CUstream_st* stream) {
  const std::lock_guard<std::mutex> lock(streams_mutex_);
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end()) {
    streams_.push_back(stream);
  }
}

std::vector<CUstream_st*> NcclRank::streams() const {
  const std::lock_guard<std::mutex> lock(streams_mutex_);
  return streams_;
}

void NcclRank::Fail(nccl::Result error, const std::string& message) {
  if (error_.load() != nccl::Result::kSuccess) return;
  message_ = message;
  error_.store(error, std::memory_order_release);
}

NcclTransfer NcclTransfer::Send(NcclRank* rank, int peer, NcclHeader header, const void* data) {
  NcclTransfer transfer(rank, peer, header);
  transfer.header_.n_before = rank->sends(peer).n_begun++;
  transfer.is_send_ = true;
  transfer.from_ = static_cast<const uint8_t*>(data);
  return transfer;
}

NcclTransfer NcclTransfer::Recv(NcclRank* rank, int peer, NcclHeader header, void* data) {
  NcclTransfer transfer(rank, peer, header);
  transfer.header_.n_before = rank->recvs(peer).n_begun++;
  transfer.to_ = static_cast<uint8_t*>(data);
  return transfer;
}

bool NcclTransfer::Try() {
  if (is_done_) return true;
  NcclRank::Order& order = is_send_ ? rank_->sends(peer_) : rank_->recvs(peer_);
  if (order.n_done != header_.n_before || rank_->error() != nccl::Result::kSuccess) return false;
  is_done_ = is_send_ ? TrySend() : TryRecv();
  if (is_done_) ++order.n_done;
  return is_done_;
}

bool NcclTransfer::TrySend() {
  ByteRing& ring = rank_->ring(rank_->rank(), peer_);
  n_header_bytes_ += ring.Write(reinterpret_cast<const uint8_t*>(&header_) + n_header_bytes_,
                                sizeof(header_) - n_header_bytes_);
  if (n_header_bytes_ < sizeof(header_)) return false;
  n_bytes_ += ring.Write(from_ + n_bytes_, header_.n_bytes - n_bytes_);
  return n_bytes_ == header_.n_bytes;
}

bool NcclTransfer::TryRecv() {
  ByteRing& ring = rank_->ring(peer_, rank_->rank());
  if (n_header_bytes_ < sizeof(received_)) {
    n_header_bytes_ += ring.Read(reinterpret_cast<uint8_t*>(&received_) + n_header_bytes_,
                                 sizeof(received_) - n_header_bytes_);
    if (n_header_bytes_ < sizeof(received_)) return false;
    if (!IsSame(received_, header_)) {
      rank_->Fail(nccl::Result::kInvalidUsage, "rank " + std::to_string(rank_->rank()) +
                                                   " expects of rank " + std::to_string(peer_) +
                                                   " " + TextOf(header_) + ", and it sent " +
                                                   TextOf(received_));
      return false;
    }
  }
  n_bytes_ += ring.Read(to_ + n_bytes_, header_.n_bytes - n_bytes_);
  return n_bytes_ == header_.n_bytes;
}

}  // namespace bora::cuda_host
