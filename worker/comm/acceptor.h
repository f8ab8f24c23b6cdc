// The accepting side of the handshake: one thread per Listener that authenticates connections and
// delivers them to the Connect call that waits for them. Anyone on the network can connect, so it
// never blocks on a connection, reads fixed-size messages only, and bounds the time of a handshake
// and the number of handshakes at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/host/unique_fd.h"
#include "worker/comm/handshake.h"
#include "worker/comm/rendezvous.h"

namespace bora {

struct AcceptorOptions {
  UniqueFd tcp_listener;   // both listeners come from ListenOn()
  UniqueFd unix_listener;  // for links over shared memory
  UniqueFd stop_event;     // from NewEventFd(); ends the thread
  // From accept() to the end of the handshake; a slower connection is refused.
  absl::Duration handshake_timeout;
  // Returns the rendezvous of the Connect call of `rank` in `epoch`, or null if none is under way
  // here. Called from the accepting thread.
  std::function<std::shared_ptr<Rendezvous>(int64_t epoch, int rank)> find_rendezvous;
};

// The most connections in handshake at one time. A member of the epoch needs about a millisecond,
// so the oldest connection is the least likely to be one: it is closed if one more arrives.
inline constexpr size_t kMaxPendingHandshakes = 64;

// Owned by the Listener. Its thread runs from construction to destruction; destruction closes all
// connections that are in handshake.
class Acceptor {
 public:
  explicit Acceptor(AcceptorOptions options);
  ~Acceptor();

  // Connections closed before the end of their handshake, for any reason. Thread-safe.
  int64_t n_refused() const { return n_refused_.load(std::memory_order_relaxed); }

 private:
  // A connection in handshake. It waits for its Hello, then, if has_hello, for its Proof.
  struct Pending {
    UniqueFd socket;
    bool is_unix = false;
    std::string from;        // the other side's address, for the log
    SteadyTime deadline;     // end of handshake_timeout
    bool has_hello = false;  // `hello` is complete and answered
    size_t n_received = 0;   // bytes received of the message that it waits for
    HelloMessage hello;
    Nonce nonce = {};  // this side's, sent in the Challenge
    ProofMessage proof;
    std::vector<UniqueFd> fds;               // came with the proof
    std::shared_ptr<Rendezvous> rendezvous;  // of the Connect call that the Hello names
  };

  // The loop of the accepting thread, which alone calls the functions below.
  void Run();
  // Accepts the connections that wait on `listener`, at most kMaxPendingHandshakes of them.
  void AcceptAll(int listener, bool is_unix);
  // Reads the bytes that have arrived and answers complete messages. False if the connection is
  // finished, delivered or refused, and must be erased.
  bool Advance(Pending* pending);
  // Checks the complete Hello, finds its rendezvous and sends the Challenge.
  absl::Status AnswerHello(Pending* pending);
  // Checks the complete Proof and delivers the link. UNAUTHENTICATED: not the epoch's secret.
  absl::Status AcceptProof(Pending* pending);
  // Counts and logs a refusal; the caller erases the connection, which closes it.
  void Refuse(const Pending& pending, const absl::Status& reason);

  const AcceptorOptions options_;
  std::atomic<int64_t> n_refused_ = 0;
  // Used by the accepting thread only, from here to n_unlogged_.
  std::list<Pending> pending_;                            // oldest first
  SteadyTime accept_after_ = SteadyTime::InfinitePast();  // until then no accept() is tried
  SteadyTime next_log_ = SteadyTime::InfinitePast();      // until then refusals are not logged
  int64_t n_unlogged_ = 0;                                // refusals since the last log line
  std::thread thread_;
};

}  // namespace bora
