#include "worker/comm/rendezvous.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/comm/link/socket_util.h"

namespace bora {

absl::Status Rendezvous::CheckHello(const HelloMessage& hello) const {
  const auto dialer =
      std::find_if(terms_.dialers.begin(), terms_.dialers.end(),
                   [&](const auto& candidate) { return candidate.rank == hello.from_rank; });
  if (dialer == terms_.dialers.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", hello.from_rank, " is no dialing peer of rank ", terms_.my_rank));
  }
  if (hello.ring_bytes != terms_.ring_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", hello.from_rank, " has ring_bytes ",
                                                   hello.ring_bytes, ", rank ", terms_.my_rank,
                                                   " has ", terms_.ring_bytes));
  }
  const auto kind = static_cast<LinkKind>(hello.link_kind);
  if (kind == LinkKind::kSharedMemory && dialer->strongest_kind != LinkKind::kSharedMemory) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", hello.from_rank,
                                                   " wants shared memory, which rank ",
                                                   terms_.my_rank, " does not allow"));
  }
  return absl::OkStatus();
}

absl::Status Rendezvous::Deliver(EstablishedLink link) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return absl::UnavailableError("this rank no longer waits for links");
  // Sent under the lock, so that Close() cannot end the life of the doorbell meanwhile.
  const int doorbell = terms_.doorbell_fd;
  const size_t n_fds = link.kind == LinkKind::kSharedMemory ? 1 : 0;
  RETURN_IF_ERROR(
      SendSmall(link.socket.get(), AsBytes(ReadyMessage{}), absl::MakeConstSpan(&doorbell, n_fds)));
  const int peer = link.peer;
  arrived_.erase(std::remove_if(arrived_.begin(), arrived_.end(),
                                [peer](const auto& other) { return other.peer == peer; }),
                 arrived_.end());
  arrived_.push_back(std::move(link));
  SignalEventFd(arrival_.get());
  return absl::OkStatus();
}

std::vector<EstablishedLink> Rendezvous::TakeArrived() {
  const std::lock_guard<std::mutex> lock(mutex_);
  DrainEventFd(arrival_.get());
  return std::exchange(arrived_, {});
}

void Rendezvous::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  arrived_.clear();
}

}  // namespace bora
