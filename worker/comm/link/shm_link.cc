// Link over shared rings (shared_ring.h). TrySend copies into one ring, TryRecv out of the other; a
// side that sleeps is woken through its doorbell, an event descriptor that the peer holds too.
//
// No wake-up may be lost. A side that is about to sleep stores its `waiting` flag and then
// looks at the ring once more; the other side publishes its ring index and then looks at the flag.
// Both do store-then-load on two different variables (Dekker), so each of the four accesses is
// seq_cst: at least one side then sees the other's store, and either the sleeper finds the data or
// the publisher finds the flag and rings. Anything weaker lets both loads pass the stores (x86
// keeps stores in a buffer), and the sleeper would sleep although its data is there. Sequentially
// consistent accesses, not fences, because ThreadSanitizer does not model fences.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "worker/comm/link/link.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

// A long message is published in steps of at most this many bytes, so that the peer copies out
// while this rank copies in. 64 KiB stays in a private L2 cache on either side.
constexpr int64_t kStepBytes = int64_t{1} << 16;

class ShmLink final : public Link {
 public:
  ShmLink(int my_rank, std::string name, EstablishedLink established)
      : Link(established.peer, std::move(name), LinkKind::kSharedMemory),
        socket_(std::move(established.socket)),
        peer_doorbell_(std::move(established.peer_doorbell)),
        mapping_(std::move(established.mapping)),
        capacity_(static_cast<uint64_t>(mapping_.ring_bytes())) {
    const int my_side = my_rank < established.peer ? 0 : 1;
    SharedHeader* header = mapping_.header();
    my_flags_ = &header->sides[my_side];
    peer_flags_ = &header->sides[1 - my_side];
    out_ = &header->rings[my_side];
    in_ = &header->rings[1 - my_side];
    out_data_ = mapping_.ring_data(my_side);
    in_data_ = mapping_.ring_data(1 - my_side);
  }

  // The indices are published with seq_cst, which also orders the copied bytes before them.
  int64_t TrySend(absl::Span<const iovec> parts) override {
    const uint64_t used = n_written_ - out_->n_read.load(std::memory_order_seq_cst);
    if (used > capacity_) return Corrupt("n_read", used);
    const int64_t n = Copy(out_data_, n_written_, capacity_ - used, parts, /*into_ring=*/true);
    if (n == 0) return 0;
    n_written_ += static_cast<uint64_t>(n);
    out_->n_written.store(n_written_, std::memory_order_seq_cst);
    RingIfWaiting(kWaitsForData);
    return n;
  }

  // Also takes bytes from a link that is closed or lost: the memory stays mapped.
  int64_t TryRecv(absl::Span<const iovec> parts) override {
    const uint64_t available = in_->n_written.load(std::memory_order_seq_cst) - n_read_;
    if (available == 0) return 0;
    if (available > capacity_) return Corrupt("n_written", available);
    const int64_t n = Copy(in_data_, n_read_, available, parts, /*into_ring=*/false);
    if (n == 0) return 0;
    n_read_ += static_cast<uint64_t>(n);
    in_->n_read.store(n_read_, std::memory_order_seq_cst);
    RingIfWaiting(kWaitsForSpace);
    return n;
  }

  void BeginSleep(bool wants_recv, bool wants_send) override {
    const uint32_t bits = (wants_recv ? kWaitsForData : 0) | (wants_send ? kWaitsForSpace : 0);
    my_flags_->waiting.store(bits, std::memory_order_seq_cst);
  }

  // No data travels over the socket, so that any event on it is its end. Data is announced through
  // this rank's doorbell, which the Mesh polls once for all links.
  pollfd PollRequest() const override {
    return {state() == LinkState::kUp ? socket_.get() : -1, POLLIN | POLLRDHUP, 0};
  }

  void EndSleep(short revents) override {
    // Relaxed: a peer that still sees the old flag rings once too often, which costs a wake-up.
    my_flags_->waiting.store(0, std::memory_order_relaxed);
    if (revents == 0) return;
    if (peer_flags_->closed.load(std::memory_order_acquire) != 0) {
      MarkClosed();
    } else {
      MarkLost("its process has ended or left this epoch");
    }
  }

  void CloseOrderly() override { my_flags_->closed.store(1, std::memory_order_release); }

 private:
  // Copies between the ring, from index `position` on, and `parts` in their order, into the ring or
  // out of it: at most `limit` bytes (free or available in the ring) and at most kStepBytes.
  // Returns the number of bytes copied.
  int64_t Copy(uint8_t* ring, uint64_t position, uint64_t limit, absl::Span<const iovec> parts,
               bool into_ring) const {
    int64_t left = std::min(static_cast<int64_t>(limit), kStepBytes);
    int64_t done = 0;
    for (const iovec& part : parts) {
      auto* memory = static_cast<uint8_t*>(part.iov_base);
      int64_t n_part = std::min(left, static_cast<int64_t>(part.iov_len));
      left -= n_part;
      while (n_part > 0) {
        const uint64_t offset = (position + static_cast<uint64_t>(done)) & (capacity_ - 1);
        const int64_t n = std::min(n_part, static_cast<int64_t>(capacity_ - offset));
        if (into_ring) {
          memcpy(ring + offset, memory, static_cast<size_t>(n));
        } else {
          memcpy(memory, ring + offset, static_cast<size_t>(n));
        }
        memory += n;
        n_part -= n;
        done += n;
      }
    }
    return done;
  }

  // Rings the peer's doorbell if the peer sleeps and waits for `bit`, one of the kWaitsFor bits.
  void RingIfWaiting(uint32_t bit) {
    std::atomic<uint32_t>& waiting = peer_flags_->waiting;
    if ((waiting.load(std::memory_order_seq_cst) & bit) == 0) return;
    // Clearing the flag makes sure that the doorbell is rung once per sleep.
    if (waiting.exchange(0, std::memory_order_relaxed) != 0) SignalEventFd(peer_doorbell_.get());
  }

  // Marks the link broken because an index that the peer writes is impossible. Returns 0.
  int64_t Corrupt(const char* index, uint64_t distance) {
    MarkBroken(absl::StrCat("shared memory is corrupt: ", index, " is ", distance,
                            " bytes away, the ring has ", capacity_));
    return 0;
  }

  const UniqueFd socket_;
  const UniqueFd peer_doorbell_;
  const SharedMapping mapping_;
  const uint64_t capacity_;  // a power of two
  // All six point into mapping_.
  SharedSide* my_flags_;
  SharedSide* peer_flags_;
  SharedRing* out_;  // from this rank to the peer
  SharedRing* in_;   // from the peer to this rank
  uint8_t* out_data_;
  uint8_t* in_data_;
  // The indices that this rank advances are kept here and only copied to shared memory for the
  // peer. They are never read back, because a faulty peer could write there; the peer's own indices
  // are checked against the capacity before use.
  uint64_t n_written_ = 0;
  uint64_t n_read_ = 0;
};

}  // namespace

std::unique_ptr<Link> NewShmLink(int my_rank, std::string name, EstablishedLink established) {
  CHECK(established.mapping.header() != nullptr);
  return std::make_unique<ShmLink>(my_rank, std::move(name), std::move(established));
}

}  // namespace bora
