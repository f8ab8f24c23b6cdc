// One bidirectional byte channel to a peer rank. Two kinds: ShmLink over shared memory inside a
// host, TcpLink across hosts. A Mesh owns one Link per peer and moves all bytes through it.
#pragma once

#include <poll.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/host/unique_fd.h"
#include "worker/comm/link/shared_ring.h"
#include "worker/comm/mesh.h"

namespace bora {

// How the bytes of a link travel. The values are part of the handshake's wire format.
enum class LinkKind { kSharedMemory = 1, kTcp = 2 };

// Precedes every message on a link; see "Ordering" in mesh.h. The receiver compares all three
// fields with those that its own call expects.
struct FrameHeader {
  uint32_t operation = 0;  // an Operation of mesh_transfer.h, or kGoodbyeOperation
  uint32_t sequence = 0;   // number of the message in its direction of the link, from 0
  uint64_t n_bytes = 0;    // of the payload that follows, without this header
};
static_assert(sizeof(FrameHeader) == 16);
inline constexpr int64_t kFrameHeaderBytes = sizeof(FrameHeader);
// `operation` of the last frame of a TCP stream if its sender destroyed a healthy Mesh. A stream
// that ends without this frame was cut by a failure.
inline constexpr uint32_t kGoodbyeOperation = 0x45594221;

// An authenticated connection, on the way from the handshake into a Mesh.
struct EstablishedLink {
  int peer = -1;  // rank id
  LinkKind kind = LinkKind::kTcp;
  // TCP: carries the data. Shared memory: a unix socket that carries nothing after the handshake;
  // its end tells that the peer's process has died or has destroyed its Mesh.
  UniqueFd socket;
  SharedMapping mapping;   // shared memory only
  UniqueFd peer_doorbell;  // shared memory only: the event descriptor that wakes the peer
};

enum class LinkState {
  kUp,
  kClosed,  // the peer destroyed a healthy Mesh; bytes that it sent before can still be received
  kLost,    // the peer is dead, unreachable, or broke the rules of the link
};

// Owned by the rank thread; no call blocks. A failure is recorded in state() instead of being
// returned, because bytes received before the failure can still be taken with TryRecv.
//
// A wait goes: BeginSleep; TrySend and TryRecv once more; poll() on PollRequest(); EndSleep.
class Link {
 public:
  // `peer` is a rank id; `name` describes the peer in messages: "rank 3 (10.0.0.5:40123)".
  Link(int peer, std::string name, LinkKind kind)
      : peer_(peer), name_(std::move(name)), kind_(kind) {}
  virtual ~Link() = default;

  int peer() const { return peer_; }
  LinkKind kind() const { return kind_; }
  LinkState state() const { return state_; }
  // OK while state() is kUp. Otherwise names the peer and the cause: UNAVAILABLE if the peer closed
  // or was lost, INTERNAL if it broke the rules of the link.
  const absl::Status& loss() const { return loss_; }

  // Moves a prefix of the bytes of `parts`, which is one run of bytes in up to two pieces: TrySend
  // from the parts to the peer, TryRecv from the peer into the parts. Returns the number of bytes
  // moved, less than asked for whenever that is easier; 0 if nothing can move now or never again,
  // which state() tells apart.
  virtual int64_t TrySend(absl::Span<const iovec> parts) = 0;
  virtual int64_t TryRecv(absl::Span<const iovec> parts) = 0;

  // Announces that this rank is about to sleep until it can receive from this link (`wants_recv`)
  // or send on it (`wants_send`); neither: it still learns of the link's end.
  // REQUIRES: the caller tries once more to send and receive between BeginSleep and poll(); the
  // peer does not wake it for bytes that moved before the announcement.
  virtual void BeginSleep(bool wants_recv, bool wants_send) = 0;
  // The descriptor and events to poll for between BeginSleep and EndSleep. Its fd is -1, which
  // poll() ignores, if the link is not up.
  virtual pollfd PollRequest() const = 0;
  // Ends the sleep. `revents`: the result of poll() for PollRequest(), 0 if poll() was not called
  // or timed out. Updates state().
  virtual void EndSleep(short revents) = 0;

  // Marks the link lost if its connection was cut without the kernel noticing. Called a few times a
  // second while the rank waits. A shared memory link needs no such check.
  virtual void CheckAlive() {}

  // Tells the peer that the end of this link, which follows at once, is not a failure. Best effort.
  virtual void CloseOrderly() = 0;

  // FrameHeader::sequence of the next message in either direction; the Mesh counts.
  uint32_t next_send_sequence = 0;
  uint32_t next_recv_sequence = 0;

 protected:
  const std::string& name() const { return name_; }
  // Record that the peer closed orderly, or was lost for `reason`. The first of these calls counts,
  // later ones change nothing.
  void MarkClosed();
  void MarkLost(const std::string& reason);
  // Records that the peer broke the rules of the link (kLost, INTERNAL). Also replaces kClosed.
  void MarkBroken(const std::string& reason);

 private:
  const int peer_;
  const std::string name_;  // of the peer: "rank 3 (10.0.0.5:40123)"
  const LinkKind kind_;
  LinkState state_ = LinkState::kUp;
  absl::Status loss_;  // OK while state_ is kUp
};

// A link over `established.mapping`. The lower of `my_rank` and the peer's rank has side 0 of it.
// REQUIRES: established.kind is kSharedMemory and its mapping is valid.
std::unique_ptr<Link> NewShmLink(int my_rank, std::string name, EstablishedLink established);
// A link over the TCP connection `established.socket`. `inbox_bytes` is MeshOptions::ring_bytes;
// `link_timeout` is MeshOptions::link_timeout.
std::unique_ptr<Link> NewTcpLink(std::string name, EstablishedLink established, int64_t inbox_bytes,
                                 absl::Duration link_timeout);

}  // namespace bora
