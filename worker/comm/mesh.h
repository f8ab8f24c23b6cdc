// Host transport: how CPU ranks exchange data. All-reduce and gathers inside a tensor-parallel
// group, ordered messages between pipeline stages; shared memory inside a host, TCP across hosts.
//
// Objects. A worker process owns one Listener for its whole life and tells the coordinator
// listener.endpoint(). For each epoch, a period with one fixed set of ranks, the coordinator hands
// out the list of ranks with their endpoints and a secret; each rank then calls Listener::Connect
// and gets a Mesh: its links to the peers it named.
//
// Threads. A Mesh belongs to the rank thread; only Abort() may come from another thread. A Listener
// is thread-safe and runs one thread of its own, which does nothing but accept and authenticate.
// There are no I/O threads: bytes move while a rank is inside a Mesh call.
//
// Ordering. Messages between two ranks arrive in the order of the calls that sent them, and every
// message carries its operation, its number and its size. If the calls of two ranks do not match
// (other operation, other size, other order), the receiver gets INTERNAL with both sides named
// instead of wrong data. There are no tags to choose messages by.
//
// Arithmetic. AllReduceSum adds in fp32 along a balanced tree over the ranks in ascending order,
// (r0 + r1) + (r2 + r3), whichever way the data takes: all ranks get the same bits, which depend
// neither on timing nor on the kind of link. Of n ranks the left subtree holds the largest power of
// two below n. So if each rank's data is itself the sum of a complete subtree, the ranks continue
// that tree: splitting the work over one, two, four or eight ranks gives the same bits. Subnormal
// numbers count as zero, as in the kernels (base/host/flush_subnormals.h).
//
// Capacity. Each direction of a link buffers MeshOptions::ring_bytes: in the shared ring, or for
// TCP in an inbox at the receiver that is filled whenever the receiver waits in any Mesh call. Send
// returns when its bytes are in the ring or the kernel's buffer; it blocks while they do not fit.
// So ranks that all send before they receive make progress as long as the messages that one rank
// has sent to another and that are not yet received, 16 bytes of header each included, fit into
// ring_bytes; above that they wait for each other until Abort. Collectives have no such limit,
// because they send and receive together.
//
// Failure. An error other than INVALID_ARGUMENT breaks the Mesh: streams may be cut anywhere, so
// every later call returns the same error at once, and work continues only in a new epoch.
//   ABORTED      Abort() was called, or AbortEpochsBefore() covers this epoch. A waiting call ends
//                in less than 10 ms.
//   UNAVAILABLE  A peer is gone. If its process died, the kernel closes its sockets within
//                milliseconds, which ends every wait of every rank linked with it, whether the wait
//                needs that peer or not. A peer that destroyed a healthy Mesh ends only calls that
//                need it, and only after everything that it sent before was received. A silently
//                cut TCP link is noticed while waiting, within MeshOptions::link_timeout or shortly
//                after.
//   INTERNAL     Calls do not match, or a peer's shared memory holds impossible values.
//   INVALID_ARGUMENT  The arguments of this call are wrong; the Mesh stays usable.
// A peer that is alive but stopped (SIGSTOP, a long computation) is waited for without limit: it is
// the coordinator that bounds the time of a step, and it ends the wait with Abort.
//
// Security. Both sides of a link prove that they know the epoch's secret (HMAC-SHA256 challenge and
// response), so that strangers and members of other epochs stay out. Data is neither encrypted nor
// authenticated afterwards: as with NCCL, the network must be trusted.
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

// A rank and the endpoint of the worker process that runs it.
struct RankAddress {
  int rank = 0;
  Endpoint endpoint;
};

// Identifies the processes that can share memory with this one: boot id / network namespace / host
// name. Two processes with equal ids can reach each other's abstract unix sockets. UNAVAILABLE if
// the kernel does not tell one of the three. Thread-safe.
absl::StatusOr<std::string> LocalHostId();

// The most peers of one rank; bounds the arrays that a call keeps on the stack.
inline constexpr size_t kMaxPeers = 63;

// How Listener::Connect makes a Mesh.
struct MeshOptions {
  int64_t epoch = 0;
  std::string secret;  // of this epoch, from the coordinator; at least 16 bytes (kMinSecretBytes)
  int my_rank = 0;
  std::vector<RankAddress> ranks;  // contains my_rank and every peer
  std::vector<int> peers;  // ranks to link with, at most kMaxPeers; if A names B, B must name A
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // for Connect
  bool allow_shared_memory = true;                     // false: TCP also inside a host
  // Buffer of each direction of a link, in bytes; the same on all ranks; a power of two from 4 KiB
  // to 1 GiB. See "Capacity" above.
  int64_t ring_bytes = int64_t{1} << 20;
  // The Mesh is made with memory for AllReduceSum of up to this many floats, so that such calls
  // allocate nothing. A larger call works too but allocates.
  int64_t max_all_reduce_floats = 0;
  // Microseconds for which a wait spins before it sleeps; a Mesh mostly stops spinning by itself if
  // that turns out not to help. Negative: 50, or 0 if more ranks run on this machine than this
  // process may use CPUs.
  int spin_us = -1;
  // A TCP link whose other end acknowledges nothing for this long, although asked, is lost; at
  // least 1 s.
  absl::Duration link_timeout = absl::Seconds(2);
};

class AbortSignal;
class Link;
enum class LinkKind;

// This rank's links of one epoch. Owned by the rank thread, except that any thread may call
// Abort(). Calls other than CheckPeers block until this rank's part of them is done; all return the
// errors under "Failure" above. Destroying the Mesh frees every descriptor and mapping; nothing has
// a name in the file system that could be left behind.
class Mesh {
 public:
  // Tells the peers that the end of the links is no failure, unless the Mesh is broken or aborted.
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  int my_rank() const { return my_rank_; }
  int64_t epoch() const { return epoch_; }
  // Whether `peer` is linked by shared memory or by TCP.
  // REQUIRES: it is one of MeshOptions::peers (CHECK).
  LinkKind link_kind(int peer) const;

  // data <- the sum of `data` over the ranks of `group`, in the order given under "Arithmetic"
  // above. A group of one rank leaves the data as it is.
  // group: ascending rank ids, my_rank and peers; the same on all of its ranks.
  // data: [n], n >= 0, the same n on all ranks.
  absl::Status AllReduceSum(absl::Span<const int> group, absl::Span<float> data);

  // all <- `local` of every rank of `group`, in the order of the group, on all of its ranks.
  // local: [n], all: [group.size(), n]. `local` may be this rank's own part of `all`.
  absl::Status AllGather(absl::Span<const int> group, absl::Span<const float> local,
                         absl::Span<float> all);

  // Like AllGather, except that only `root`, a rank of `group`, receives. `all` must be empty on
  // the other ranks. They return when their data is sent, root when it is received.
  absl::Status GatherTo(int root, absl::Span<const int> group, absl::Span<const float> local,
                        absl::Span<float> all);

  // Returns when every rank of `group` has entered it.
  absl::Status Barrier(absl::Span<const int> group);

  // Sends one message to `peer`, which receives it with Recv. Blocks while the buffers of the link
  // are full; see "Capacity" above.
  absl::Status Send(int peer, absl::Span<const uint8_t> message);

  // Receives the next message that `peer` sends to this rank with Send; blocks until it is
  // complete. INTERNAL if its size is not message.size().
  absl::Status Recv(int peer, absl::Span<uint8_t> message);

  // Returns, without waiting, the error that ends this Mesh, or OK. For a rank that waits outside
  // the Mesh for something that its peers take part in, such as an NCCL call. Here a peer that has
  // destroyed a healthy Mesh counts as gone, too, and breaks this Mesh.
  absl::Status CheckPeers();

  // The current call and all later ones return ABORTED with the message of `reason`. Any thread may
  // call this, at any time before destruction. Peers do not notice until this Mesh is destroyed.
  void Abort(const absl::Status& reason);

 private:
  friend class MeshBuilder;
  struct Transfer;

  Mesh(const MeshOptions& options, std::vector<std::unique_ptr<Link>> links, UniqueFd doorbell,
       std::shared_ptr<AbortSignal> abort_signal);

  // Every call starts with one of these two. ABORTED or the error that broke the Mesh, if any.
  absl::Status BeginCall() const;
  // As BeginCall; INVALID_ARGUMENT if `group` is not ascending, or is not my_rank and peers.
  absl::Status BeginGroupCall(absl::Span<const int> group) const;
  // The link with rank `peer`; INVALID_ARGUMENT if it is not a peer.
  absl::StatusOr<Link*> FindLink(int peer) const;

  // The two ways of AllReduceSum, which give the same bits; see kDirectFloatsMax in
  // mesh_transfer.h. Direct: every rank sends all of its data to every other and sums everything.
  absl::Status AllReduceDirect(absl::Span<const int> group, absl::Span<float> data);
  // Scattered: every rank sums one part of the data and sends the sums of this part to the others.
  absl::Status AllReduceScattered(absl::Span<const int> group, absl::Span<float> data);

  // Queue one message of the current call with `peer`; `operation` is an Operation. The bytes must
  // stay valid until RunTransfers returns. At most one message per peer and direction is queued.
  void AddSend(uint32_t operation, int peer, absl::Span<const uint8_t> message);
  void AddRecv(uint32_t operation, int peer, absl::Span<uint8_t> message);
  // Moves all queued messages, in any interleaving, and empties the queue. Calls `after_progress`
  // whenever bytes have moved, the last time when all have. On failure the Mesh is broken.
  absl::Status RunTransfers(absl::FunctionRef<void()> after_progress);
  // The loop of RunTransfers.
  absl::Status MoveAll(absl::FunctionRef<void()> after_progress);
  // Tries once to move bytes of every queued message; true if any bytes moved.
  absl::StatusOr<bool> MoveSome();
  // Sleeps in poll() until bytes may move or the next check of the links is due. Returns true,
  // without having slept, if bytes moved after all.
  absl::StatusOr<bool> Sleep();
  // The failure of a link that ends the current call, or OK: a lost link always ends it, a closed
  // link only if a queued message needs it.
  absl::Status CheckLinks() const;
  // Calls Link::CheckAlive of all links if tick_ has passed since the last time.
  void CheckLinksAlive();
  // How long the wait that begins now should spin: spin_ or zero.
  absl::Duration NextSpin();
  // The number of payload bytes that each of `transfers` has moved at least.
  static int64_t MovedByAll(const std::vector<Transfer>& transfers);

  const int my_rank_;
  const int64_t epoch_;
  const absl::Duration spin_;
  const absl::Duration tick_;  // time between two CheckAlive; infinite if there is no TCP link
  const std::vector<std::unique_ptr<Link>> links_;
  const UniqueFd doorbell_;  // event descriptor with which peers on this host wake this rank
  const std::shared_ptr<AbortSignal> abort_signal_;
  absl::Status failed_;         // the error that broke the Mesh; OK while it is usable
  SteadyTime next_check_;       // when CheckLinksAlive is due
  int64_t n_failed_spins_ = 0;  // sleeps since spinning last made a sleep unnecessary
  uint64_t n_waits_ = 0;        // waits that began while spinning did not seem to help
  // Reused by every call, so that a call allocates nothing.
  std::vector<Transfer> sends_;
  std::vector<Transfer> recvs_;
  std::vector<pollfd> poll_requests_;
  std::vector<float> staging_;         // data received from peers until it is summed
  std::vector<const float*> sources_;  // operands of the current sum, in ascending rank order
};

}  // namespace bora
