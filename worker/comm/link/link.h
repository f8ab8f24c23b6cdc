// One bidirectional byte channel to a peer. Two kinds: ShmLink inside a host, TcpLink across hosts.
#pragma once

#include <poll.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/host/unique_fd.h"
#include "worker/comm/link/shared_ring.h"
#include "worker/comm/mesh.h"

namespace bora {

enum class LinkKind { kSharedMemory = 1, kTcp = 2 };

// What travels in front of every message; see "Ordering" in mesh.h.
struct FrameHeader {
  uint32_t operation = 0;
  uint32_t sequence = 0;  // number of the message in its direction
  uint64_t n_bytes = 0;
};
static_assert(sizeof(FrameHeader) == 16);
inline constexpr int64_t kFrameHeaderBytes = sizeof(FrameHeader);
// `operation` of the last frame of a TCP stream whose sender destroyed a healthy Mesh.
inline constexpr uint32_t kGoodbyeOperation = 0x45594221;

// An authenticated connection, on the way from the handshake into a Mesh.
struct EstablishedLink {
  int peer = -1;
  LinkKind kind = LinkKind::kTcp;
  UniqueFd socket;         // TCP: the data; shared memory: tells that the peer's process lives
  SharedMapping mapping;   // shared memory only, as is peer_doorbell
  UniqueFd peer_doorbell;  // the event descriptor that wakes the peer
};

enum class LinkState {
  kUp,
  kClosed,  // the peer destroyed a healthy Mesh; what it sent can still be received
  kLost,    // the peer is dead, or broke the rules of the link
};

// Owned by the rank thread. Nothing here blocks. Failures are recorded in state(), not returned:
// what was received before can still be taken.
class Link {
 public:
  Link(int peer, std::string name, LinkKind kind) : peer_(peer), name_(name), kind_(kind) {}
  virtual ~Link() = default;

  int peer() const { return peer_; }
  LinkKind kind() const { return kind_; }
  LinkState state() const { return state_; }
  // Why it is not up: UNAVAILABLE or INTERNAL, naming the peer.
  const absl::Status& loss() const { return loss_; }

  // Moves a prefix of the parts' bytes; returns how many, 0 when nothing can move now.
  virtual int64_t TrySend(absl::Span<const iovec> parts) = 0;
  virtual int64_t TryRecv(absl::Span<const iovec> parts) = 0;

  // Announces that this rank is about to sleep and what it hopes for here. Between BeginSleep and
  // poll() the caller must try once more to send and receive.
  virtual void BeginSleep(bool wants_recv, bool wants_send) = 0;
  // What to poll for between BeginSleep and EndSleep; fd -1: nothing.
  virtual pollfd PollRequest() const = 0;
  // Takes the result of poll(), 0 when there was none.
  virtual void EndSleep(short revents) = 0;

  // Looks for a connection that was cut silently. Called a few times a second while waiting.
  virtual void CheckAlive() {}

  // Tells the peer that the end of this link is not a failure.
  virtual void CloseOrderly() = 0;

  // Numbers of the next message in either direction.
  uint32_t next_send_sequence = 0;
  uint32_t next_recv_sequence = 0;

 protected:
  const std::string& name() const { return name_; }
  // Keeps the first state that is not kUp.
  void MarkClosed();
  void MarkLost(const std::string& reason);
  void MarkBroken(const std::string& reason);

 private:
  const int peer_;
  const std::string name_;  // "rank 3 (10.0.0.5:40123)"
  const LinkKind kind_;
  LinkState state_ = LinkState::kUp;
  absl::Status loss_;
};

// `my_rank` decides which side of the shared memory is mine.
std::unique_ptr<Link> NewShmLink(int my_rank, std::string name, EstablishedLink established);
// `inbox_bytes` is MeshOptions::ring_bytes.
std::unique_ptr<Link> NewTcpLink(std::string name, EstablishedLink established, int64_t inbox_bytes,
                                 absl::Duration link_timeout);

}  // namespace bora
