// The progress loop of a Mesh: every operation (mesh_operations.cc) queues messages, and
// RunTransfers moves them. A wait spins first, then sleeps in poll().
#include "worker/comm/mesh.h"

#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "worker/comm/abort_signal.h"
#include "worker/comm/link/link.h"
#include "worker/comm/link/socket_util.h"
#include "worker/comm/mesh_transfer.h"

namespace bora {
namespace {

// Tells the CPU that this is a spinning loop: saves power, and leaves more to its hyperthread.
void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Mesh::tick_. Only TCP links can be cut silently.
absl::Duration TickOf(const MeshOptions& options, const std::vector<std::unique_ptr<Link>>& links) {
  const bool has_tcp = std::any_of(links.begin(), links.end(),
                                   [](const auto& link) { return link->kind() == LinkKind::kTcp; });
  // Four checks per timeout notice a cut soon after it has lasted for the timeout.
  return has_tcp ? options.link_timeout / 4 : absl::InfiniteDuration();
}

}  // namespace

Mesh::Mesh(const MeshOptions& options, std::vector<std::unique_ptr<Link>> links, UniqueFd doorbell,
           std::shared_ptr<AbortSignal> abort_signal)
    : my_rank_(options.my_rank),
      epoch_(options.epoch),
      spin_(absl::Microseconds(options.spin_us)),
      tick_(TickOf(options, links)),
      links_(std::move(links)),
      doorbell_(std::move(doorbell)),
      abort_signal_(std::move(abort_signal)),
      next_check_(SteadyNow() + tick_) {
  sends_.reserve(links_.size());
  recvs_.reserve(links_.size());
  sources_.reserve(links_.size() + 1);
  poll_requests_.resize(2 + links_.size());
  staging_.resize(StagedFloats(links_.size() + 1, options.max_all_reduce_floats));
}

Mesh::~Mesh() {
  if (!failed_.ok() || abort_signal_->raised()) return;
  for (const auto& link : links_) link->CloseOrderly();
}

LinkKind Mesh::link_kind(int peer) const {
  const absl::StatusOr<Link*> link = FindLink(peer);
  CHECK(link.ok()) << link.status();
  return (*link)->kind();
}

void Mesh::Abort(const absl::Status& reason) { abort_signal_->Raise(reason); }

absl::StatusOr<Link*> Mesh::FindLink(int peer) const {
  for (const auto& link : links_) {
    if (link->peer() == peer) return link.get();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("rank ", my_rank_, " of epoch ", epoch_, " has no link with rank ", peer));
}

absl::Status Mesh::BeginCall() const {
  if (abort_signal_->raised()) return abort_signal_->status();
  return failed_;
}

absl::Status Mesh::BeginGroupCall(absl::Span<const int> group) const {
  RETURN_IF_ERROR(BeginCall());
  bool has_me = false;
  for (size_t i = 0; i < group.size(); ++i) {
    if (i > 0 && group[i] <= group[i - 1]) {
      return absl::InvalidArgumentError(
          absl::StrCat("group is not ascending: ", group[i - 1], ", ", group[i]));
    }
    has_me = has_me || group[i] == my_rank_;
    if (group[i] != my_rank_) RETURN_IF_ERROR(FindLink(group[i]).status());
  }
  if (has_me) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("group does not contain rank ", my_rank_));
}

void Mesh::AddSend(uint32_t operation, int peer, absl::Span<const uint8_t> message) {
  Link* link = *FindLink(peer);
  const FrameHeader header = {operation, link->next_send_sequence++, message.size()};
  sends_.push_back({link, header, header, const_cast<uint8_t*>(message.data())});
}

void Mesh::AddRecv(uint32_t operation, int peer, absl::Span<uint8_t> message) {
  Link* link = *FindLink(peer);
  const FrameHeader header = {operation, link->next_recv_sequence++, message.size()};
  recvs_.push_back({link, header, FrameHeader{}, message.data()});
}

absl::Status Mesh::RunTransfers(absl::FunctionRef<void()> after_progress) {
  absl::Status status = MoveAll(after_progress);
  sends_.clear();
  recvs_.clear();
  if (!status.ok()) failed_ = status;
  return status;
}

absl::Status Mesh::MoveAll(absl::FunctionRef<void()> after_progress) {
  using Clock = std::chrono::steady_clock;
  bool is_idle = false;  // nothing has moved since the last after_progress()
  Clock::time_point spin_end;
  while (true) {
    if (abort_signal_->raised()) return abort_signal_->status();
    ASSIGN_OR_RETURN(bool moved, MoveSome());
    if (!moved) {
      RETURN_IF_ERROR(CheckLinks());
      const Clock::time_point now = Clock::now();
      if (!is_idle) spin_end = now + absl::ToChronoNanoseconds(NextSpin());
      is_idle = true;
      if (now < spin_end) {
        CpuRelax();
        continue;
      }
      ++n_failed_spins_;
      ASSIGN_OR_RETURN(moved, Sleep());
      if (!moved) continue;
    } else if (is_idle && Clock::now() < spin_end) {
      n_failed_spins_ = 0;
    }
    is_idle = false;
    after_progress();
    const auto is_done = [](const Transfer& transfer) { return transfer.done(); };
    if (std::all_of(sends_.begin(), sends_.end(), is_done) &&
        std::all_of(recvs_.begin(), recvs_.end(), is_done)) {
      return absl::OkStatus();
    }
  }
}

// Spinning pays only if the peer runs on another CPU meanwhile. If the machine is oversubscribed, a
// spin takes the very CPU that the peer needs (an 8 KiB all-reduce then takes 64 us spinning, 8 us
// sleeping). So after kFailuresToStop sleeps in a row in spite of spinning, only every 16th wait
// spins, to find out whether it helps again.
absl::Duration Mesh::NextSpin() {
  constexpr int64_t kFailuresToStop = 4;
  constexpr uint64_t kRetryPeriod = 16;
  const bool is_futile = n_failed_spins_ >= kFailuresToStop;
  return is_futile && ++n_waits_ % kRetryPeriod != 0 ? absl::ZeroDuration() : spin_;
}

absl::StatusOr<bool> Mesh::MoveSome() {
  bool moved = false;
  iovec parts[2];
  for (Transfer& send : sends_) {
    if (send.done()) continue;
    const int64_t n = send.link->TrySend(send.RemainingParts(parts));
    send.n_moved += n;
    moved = moved || n > 0;
  }
  for (Transfer& recv : recvs_) {
    if (recv.done()) continue;
    const bool had_header = recv.n_moved >= kFrameHeaderBytes;
    const int64_t n = recv.link->TryRecv(recv.RemainingParts(parts));
    recv.n_moved += n;
    moved = moved || n > 0;
    if (!had_header && recv.n_moved >= kFrameHeaderBytes) {
      RETURN_IF_ERROR(recv.CheckHeader(my_rank_));
    }
  }
  return moved;
}

absl::Status Mesh::CheckLinks() const {
  const auto needs = [](const std::vector<Transfer>& transfers, const Link* link) {
    return std::any_of(transfers.begin(), transfers.end(), [link](const Transfer& transfer) {
      return transfer.link == link && !transfer.done();
    });
  };
  for (const auto& link : links_) {
    if (link->state() == LinkState::kUp) continue;
    if (link->state() == LinkState::kLost || needs(sends_, link.get()) ||
        needs(recvs_, link.get())) {
      return link->loss();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Mesh::Sleep() {
  const auto unfinished = [](const std::vector<Transfer>& transfers, const Link* link) {
    for (const Transfer& transfer : transfers) {
      if (transfer.link == link) return !transfer.done();
    }
    return false;
  };
  for (const auto& link : links_) {
    link->BeginSleep(unfinished(recvs_, link.get()), unfinished(sends_, link.get()));
  }
  // Bytes that a peer moved before it could see that this rank sleeps do not ring the doorbell.
  absl::StatusOr<bool> moved = MoveSome();
  poll_requests_[0] = {abort_signal_->fd(), POLLIN, 0};
  poll_requests_[1] = {doorbell_.get(), POLLIN, 0};
  for (size_t i = 0; i < links_.size(); ++i) poll_requests_[2 + i] = links_[i]->PollRequest();
  if (moved.ok() && !*moved) {
    // On a timeout or an error nothing was filled in.
    const int n = poll(poll_requests_.data(), poll_requests_.size(), PollTimeoutMs(next_check_));
    if (n <= 0) {
      for (pollfd& request : poll_requests_) request.revents = 0;
    }
    if (poll_requests_[1].revents != 0) DrainEventFd(doorbell_.get());
  }
  for (size_t i = 0; i < links_.size(); ++i) links_[i]->EndSleep(poll_requests_[2 + i].revents);
  CheckLinksAlive();
  return moved;
}

void Mesh::CheckLinksAlive() {
  if (tick_ == absl::InfiniteDuration()) return;
  const SteadyTime now = SteadyNow();
  if (now < next_check_) return;
  for (const auto& link : links_) link->CheckAlive();
  next_check_ = now + tick_;
}

absl::Status Mesh::CheckPeers() {
  RETURN_IF_ERROR(BeginCall());
  // A sleep of no length on all links: their state changes only in EndSleep or while bytes move.
  std::vector<pollfd>::iterator request = poll_requests_.begin();
  for (const auto& link : links_) {
    link->BeginSleep(/*wants_recv=*/false, /*wants_send=*/false);
    *request++ = link->PollRequest();
  }
  if (poll(poll_requests_.data(), links_.size(), 0) <= 0) {
    for (pollfd& none : poll_requests_) none.revents = 0;
  }
  request = poll_requests_.begin();
  for (const auto& link : links_) link->EndSleep(request++->revents);
  CheckLinksAlive();
  for (const auto& link : links_) {
    if (link->state() == LinkState::kUp) continue;
    failed_ = link->loss();
    break;
  }
  return failed_;
}

int64_t Mesh::MovedByAll(const std::vector<Transfer>& transfers) {
  int64_t n_moved = std::numeric_limits<int64_t>::max();
  for (const Transfer& transfer : transfers) {
    n_moved = std::min(n_moved, std::max<int64_t>(0, transfer.n_moved - kFrameHeaderBytes));
  }
  return n_moved;
}

}  // namespace bora
