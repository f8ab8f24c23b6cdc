// Host transport: how CPU ranks exchange data. All-reduce and gathers inside a tensor-parallel
// group, ordered messages between pipeline stages; shared memory inside a host, TCP across hosts.
//
// Objects. A worker process owns one Listener for its whole life and publishes listener.endpoint().
// For each epoch the coordinator hands out the list of ranks with their endpoints and a secret;
// each rank then calls Listener::Connect and gets a Mesh: its links to the peers it named.
//
// Threads. A Mesh belongs to the rank thread; only Abort() may come from another thread. A Listener
// is thread-safe and runs one thread of its own, which does nothing but accept and authenticate.
// There are no I/O threads: bytes move while a rank is inside a Mesh call.
//
// Ordering. Messages between two ranks arrive in the order of the calls that sent them, and every
// message carries its kind, its number and its size. Ranks whose calls do not match (other
// operation, other size, other order) get INTERNAL with both sides named, not garbage. There are no
// tags.
//
// Arithmetic. AllReduceSum adds in fp32 along a balanced tree over the ranks in ascending order,
// (r0 + r1) + (r2 + r3), by every path: all ranks get the same bits, which depend neither on timing
// nor on the kind of link. Of n ranks the left half are the largest power of two below n, so ranks
// that each hold a complete subtree of a larger tree of sums continue that tree: one, two, four and
// eight of them give the same bits. Subnormal numbers count as zero, as inside an operation.
//
// Capacity. Each direction of a link buffers MeshOptions::ring_bytes: the shared ring, or for TCP
// an inbox of that size at the receiver that is filled whenever the receiver waits in any Mesh
// call. Send returns when its bytes are in the ring or the kernel's buffer; it blocks while they do
// not fit. So ranks that all send before they receive make progress as long as what one rank has
// sent to another and was not yet received stays within ring_bytes - 16 bytes a message; above it
// they wait for each other until Abort. Collectives have no such limit: they send and receive
// together.
//
// Failure. An error breaks the Mesh: streams may be cut anywhere, so every later call returns the
// same error at once, and the way on is a new epoch.
//   ABORTED      Abort() was called, or AbortEpochsBefore() covers this epoch; < 10 ms.
//   UNAVAILABLE  a peer is gone. Death of a process is seen by the kernel closing its sockets, in
//                milliseconds, and ends every wait of every rank linked with it, whether the wait
//                needs that peer or not. A peer that destroyed a healthy Mesh ends only calls that
//                need it, after what it sent before was received. A silently cut TCP link is
//                noticed within MeshOptions::link_timeout or shortly after, while waiting.
//   INTERNAL     calls do not match, or a peer's shared memory holds impossible values.
//   INVALID_ARGUMENT  the arguments of this call; the Mesh stays usable.
// A peer that is alive but stopped (SIGSTOP, a long computation) is waited for without limit:
// bounding a step is the coordinator's job, by Abort.
//
// Security. Both sides of a link prove the epoch's secret (HMAC-SHA256 challenge and response), so
// strangers and members of other epochs stay out. Data is neither encrypted nor authenticated
// afterwards: run it on a network that you trust as you trust NCCL's.
#pragma once

#include <poll.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/endpoint.h"
#include "base/host/unique_fd.h"

namespace bora {

struct RankAddress {
  int rank = 0;
  Endpoint endpoint;
};

// Identity of "this machine as far as shared memory goes": boot id / network namespace / host name.
// Two processes with equal ids can reach each other's abstract unix sockets.
absl::StatusOr<std::string> LocalHostId();

// Most peers of one rank: bounds the work arrays of a call.
inline constexpr size_t kMaxPeers = 63;

struct MeshOptions {
  int64_t epoch = 0;
  std::string secret;  // of this epoch, from the coordinator; at least 16 bytes
  int my_rank = 0;
  std::vector<RankAddress> ranks;  // contains my_rank and every peer
  std::vector<int> peers;          // ranks to link with; if A names B, B must name A
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // for Connect
  bool allow_shared_memory = true;                     // false: TCP also inside a host
  // Buffer of each direction of a link; the same on all ranks; a power of two, 4 KiB to 1 GiB.
  int64_t ring_bytes = int64_t{1} << 20;
  // Floats of the largest AllReduceSum for which memory is obtained now: such calls allocate
  // nothing. A larger one obtains what is missing when it comes.
  int64_t max_all_reduce_floats = 0;
  // How long a wait spins before it sleeps, as long as spinning turns out to help. Negative: 50, or
  // 0 when the ranks of this machine outnumber the CPUs this process may use.
  int spin_us = -1;
  // A TCP link whose other end acknowledges nothing for this long is lost; at least 1 s.
  absl::Duration link_timeout = absl::Seconds(2);
};

class AbortSignal;
class Link;
enum class LinkKind;

// This rank's links of one epoch. Owned by the rank thread, except Abort(). Destroying it frees
// every descriptor and mapping; nothing has a name that could be left behind.
class Mesh {
 public:
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  int my_rank() const { return my_rank_; }
  int64_t epoch() const { return epoch_; }
  // How `peer`, one of MeshOptions::peers, is reached.
  LinkKind link_kind(int peer) const;

  // data <- sum over the ranks of `group` of their data. `group`: rank ids, ascending, with
  // my_rank; the same on all of them, as is data.size(). [n], n >= 0.
  absl::Status AllReduceSum(absl::Span<const int> group, absl::Span<float> data);

  // all <- the parts of the ranks of `group`, in their order. local: [n], all: [group.size(), n].
  // `local` may be its own part inside `all`.
  absl::Status AllGather(absl::Span<const int> group, absl::Span<const float> local,
                         absl::Span<float> all);

  // As AllGather, but only `root`, a rank of `group`, receives; `all` is empty on the others.
  absl::Status GatherTo(int root, absl::Span<const int> group, absl::Span<const float> local,
                        absl::Span<float> all);

  // Returns when every rank of `group` has entered it.
  absl::Status Barrier(absl::Span<const int> group);

  // Sends one message to a peer; see "Capacity" above for when it blocks.
  absl::Status Send(int peer, absl::Span<const uint8_t> message);

  // Receives the next message of `peer`, whose size must be message.size().
  absl::Status Recv(int peer, absl::Span<uint8_t> message);

  // Looks, without waiting, whether a call would fail: for a rank that waits for something else
  // that its peers take part in. Here a peer that has destroyed a healthy Mesh counts as gone, too.
  absl::Status CheckPeers();

  // Any thread, any time before destruction: the current call and all later ones return ABORTED
  // with the message of `reason`. Peers notice when this Mesh is destroyed.
  void Abort(absl::Status reason);

 private:
  friend class MeshBuilder;
  struct Transfer;

  Mesh(const MeshOptions& options, std::vector<std::unique_ptr<Link>> links, UniqueFd doorbell,
       std::shared_ptr<AbortSignal> abort_signal);

  // The sticky error, if any, and the argument checks that every call starts with.
  absl::Status BeginCall() const;
  absl::Status BeginGroupCall(absl::Span<const int> group) const;
  absl::StatusOr<Link*> FindLink(int peer) const;

  absl::Status AllReduceDirect(absl::Span<const int> group, absl::Span<float> data);
  absl::Status AllReduceScattered(absl::Span<const int> group, absl::Span<float> data);

  // Queues one message of the current call.
  void AddSend(uint32_t operation, int peer, absl::Span<const uint8_t> message);
  void AddRecv(uint32_t operation, int peer, absl::Span<uint8_t> message);
  // Moves all queued messages, in any interleaving, and calls `after_progress` whenever bytes have
  // moved. On failure the Mesh is broken.
  absl::Status RunTransfers(absl::FunctionRef<void()> after_progress);
  absl::Status MoveAll(absl::FunctionRef<void()> after_progress);
  // One try on every queued message; true if bytes moved.
  absl::StatusOr<bool> MoveSome();
  // Waits in poll() until something may move; true if bytes moved before going to sleep.
  absl::StatusOr<bool> Sleep();
  // The failure of a link that ends the current call.
  absl::Status CheckLinks() const;
  // Looks for links that were cut silently, a few times a second.
  void CheckLinksAlive();
  // How long the wait that begins now should spin.
  absl::Duration NextSpin();
  // Payload bytes that all of these messages have moved.
  static int64_t MovedByAll(const std::vector<Transfer>& transfers);

  const int my_rank_;
  const int64_t epoch_;
  const absl::Duration spin_;
  const absl::Duration tick_;  // longest sleep without CheckAlive; infinite without TCP links
  const std::vector<std::unique_ptr<Link>> links_;
  const UniqueFd doorbell_;  // peers on this host ring it
  const std::shared_ptr<AbortSignal> abort_signal_;
  absl::Status failed_;
  SteadyTime next_check_;
  int64_t n_failed_spins_ = 0;  // in a row
  uint64_t n_waits_ = 0;
  // Reused by every call: at most one message per link and direction.
  std::vector<Transfer> sends_;
  std::vector<Transfer> recvs_;
  std::vector<pollfd> poll_requests_;
  std::vector<float> staging_;  // parts of the peers, before they are summed
  std::vector<const float*> sources_;
};

}  // namespace bora
