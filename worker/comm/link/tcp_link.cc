// Link over one TCP connection.
//
// The inbox. Bytes that arrive while this rank waits for something else are moved from the socket
// into the inbox (MeshOptions::ring_bytes), so that two ranks that both send before they receive do
// not wait for each other. A receive first empties the inbox, then reads from the socket straight
// into its destination.
//
// Silent cuts. TCP_USER_TIMEOUT would be the usual means, but it also ends a healthy connection
// whose receiver leaves its window closed that long, and a rank that computes for seconds while its
// predecessor sends does just that. So the waiting side looks at TCP_INFO instead: a link is lost
// if its peer has acknowledged nothing for link_timeout and did not answer the last retransmission
// or keepalive probe.
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/comm/link/link.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

class TcpLink final : public Link {
 public:
  TcpLink(std::string name, EstablishedLink established, int64_t inbox_bytes,
          absl::Duration link_timeout)
      : Link(established.peer, std::move(name), LinkKind::kTcp),
        socket_(std::move(established.socket)),
        link_timeout_(link_timeout),
        inbox_(static_cast<size_t>(inbox_bytes)) {}

  int64_t TrySend(absl::Span<const iovec> parts) override {
    if (state() != LinkState::kUp) return 0;
    msghdr message = MessageOf(parts);
    const ssize_t n = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) return n;
    // The peer's last bytes can still be read after this: TryRecv does not look at state().
    if (errno != EAGAIN && errno != EINTR) MarkLost(strerror(errno));
    return 0;
  }

  int64_t TryRecv(absl::Span<const iovec> parts) override {
    if (n_inbox_ > 0) return TakeFromInbox(parts);
    return Receive(parts);
  }

  void BeginSleep(bool wants_recv, bool wants_send) override {
    wants_recv_ = wants_recv;
    wants_send_ = wants_send;
  }

  pollfd PollRequest() const override {
    if (state() != LinkState::kUp) return {-1, 0, 0};
    const bool can_read = wants_recv_ || n_inbox_ < InboxBytes();
    const int events = (can_read ? POLLIN : 0) | (wants_send_ ? POLLOUT : 0);
    return {socket_.get(), static_cast<short>(events), 0};
  }

  void EndSleep(short revents) override {
    // A receive that is under way reads straight into its destination; its next TryRecv does that.
    const bool readable = (revents & (POLLIN | POLLERR | POLLHUP)) != 0;
    if (readable && !wants_recv_) FillInbox();
    // No read fetches the error from the socket while the inbox is full, so it is fetched here.
    if ((revents & (POLLERR | POLLHUP)) != 0 && n_inbox_ == InboxBytes()) MarkLost(SocketError());
  }

  void CheckAlive() override {
    tcp_info info = {};
    socklen_t n_bytes = sizeof(info);
    if (state() != LinkState::kUp) return;
    if (getsockopt(socket_.get(), IPPROTO_TCP, TCP_INFO, &info, &n_bytes) != 0) return;
    // Keepalive probes an idle link every second, so that a silence of link_timeout (at least 1 s)
    // means that the path is cut or the peer does not answer.
    const absl::Duration silent = absl::Milliseconds(info.tcpi_last_ack_recv);
    if (silent < link_timeout_) return;
    // Any acknowledgement resets tcpi_probes, so 2 means that the first probe was not answered
    // before the second was sent.
    const bool probe_unanswered = info.tcpi_probes >= 2;
    // The kernel of a stopped receiver answers each retransmission, but these become rare. So
    // silence counts only after a retransmission that had time to be answered.
    const absl::Duration since_sent = absl::Milliseconds(info.tcpi_last_data_sent);
    const absl::Duration answer_time = absl::Milliseconds(100) + absl::Microseconds(info.tcpi_rtt);
    const bool data_unanswered =
        info.tcpi_retransmits > 0 && since_sent < silent && since_sent >= answer_time;
    if (!probe_unanswered && !data_unanswered) return;
    MarkLost(absl::StrCat("no acknowledgement for ", absl::FormatDuration(silent)));
  }

  void CloseOrderly() override {
    // If the socket's buffer is full the goodbye is not sent, and the peer takes the end of the
    // stream for a failure.
    const FrameHeader goodbye = {kGoodbyeOperation, next_send_sequence, 0};
    [[maybe_unused]] const ssize_t n =
        send(socket_.get(), &goodbye, sizeof(goodbye), MSG_DONTWAIT | MSG_NOSIGNAL);
  }

 private:
  // `parts` in the form that sendmsg and recvmsg take.
  static msghdr MessageOf(absl::Span<const iovec> parts) {
    msghdr message = {};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = parts.size();
    return message;
  }

  int64_t InboxBytes() const { return static_cast<int64_t>(inbox_.size()); }

  // The text of the socket's pending error, which this takes from it.
  std::string SocketError() const {
    int error = 0;
    socklen_t n_bytes = sizeof(error);
    getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &n_bytes);
    return error == 0 ? "connection closed" : strerror(error);
  }

  // Reads from the socket into `parts`; returns the number of bytes, 0 if there are none. At the
  // end of the stream it marks the link closed or lost, once.
  int64_t Receive(absl::Span<const iovec> parts) {
    if (at_end_) return 0;
    msghdr message = MessageOf(parts);
    const ssize_t n = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (n > 0) return n;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    at_end_ = true;
    // A receive that got the goodbye as its own header has failed already (Transfer::CheckHeader).
    if (n == 0 && InboxEndsWithGoodbye()) {
      MarkClosed();
    } else {
      MarkLost(n == 0 ? "connection closed" : strerror(errno));
    }
    return 0;
  }

  // Reads as much from the socket as the inbox has room for; the free part may wrap around its end.
  void FillInbox() {
    const int64_t free_bytes = InboxBytes() - n_inbox_;
    const int64_t begin = (inbox_begin_ + n_inbox_) % InboxBytes();
    const int64_t n_first = std::min(free_bytes, InboxBytes() - begin);
    if (free_bytes == 0) return;
    const iovec parts[2] = {{inbox_.data() + begin, static_cast<size_t>(n_first)},
                            {inbox_.data(), static_cast<size_t>(free_bytes - n_first)}};
    n_inbox_ += Receive(absl::MakeConstSpan(parts, n_first < free_bytes ? 2 : 1));
  }

  // Moves bytes from the inbox into `parts` in their order; returns their number.
  int64_t TakeFromInbox(absl::Span<const iovec> parts) {
    int64_t done = 0;
    for (const iovec& part : parts) {
      int64_t n_part = std::min(n_inbox_, static_cast<int64_t>(part.iov_len));
      auto* out = static_cast<uint8_t*>(part.iov_base);
      while (n_part > 0) {
        const int64_t n = std::min(n_part, InboxBytes() - inbox_begin_);
        memcpy(out, inbox_.data() + inbox_begin_, static_cast<size_t>(n));
        inbox_begin_ = (inbox_begin_ + n) % InboxBytes();
        n_inbox_ -= n;
        n_part -= n;
        out += n;
        done += n;
      }
    }
    return done;
  }

  // Whether the last bytes that arrived are a goodbye frame, which always ends a stream.
  bool InboxEndsWithGoodbye() const {
    if (n_inbox_ < kFrameHeaderBytes) return false;
    FrameHeader last;
    for (int64_t i = 0; i < kFrameHeaderBytes; ++i) {
      const int64_t at = (inbox_begin_ + n_inbox_ - kFrameHeaderBytes + i) % InboxBytes();
      reinterpret_cast<uint8_t*>(&last)[i] = inbox_[static_cast<size_t>(at)];
    }
    return last.operation == kGoodbyeOperation && last.n_bytes == 0;
  }

  const UniqueFd socket_;
  const absl::Duration link_timeout_;
  std::vector<uint8_t> inbox_;  // circular
  int64_t inbox_begin_ = 0;     // offset of the oldest byte
  int64_t n_inbox_ = 0;         // bytes held
  bool wants_recv_ = false;     // of the last BeginSleep, as is wants_send_
  bool wants_send_ = false;
  bool at_end_ = false;  // the stream has ended or failed; reading again is useless
};

}  // namespace

std::unique_ptr<Link> NewTcpLink(std::string name, EstablishedLink established, int64_t inbox_bytes,
                                 absl::Duration link_timeout) {
  return std::make_unique<TcpLink>(std::move(name), std::move(established), inbox_bytes,
                                   link_timeout);
}

}  // namespace bora
