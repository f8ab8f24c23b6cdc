// The accepting side of the handshake: one thread per Listener that authenticates connections and
// delivers them to the Connect call that waits for them. Built to be poked at by strangers: it
// never blocks on a connection, reads fixed-size messages only, and bounds time and number.
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
  UniqueFd tcp_listener;
  UniqueFd unix_listener;
  UniqueFd stop_event;
  absl::Duration handshake_timeout;
  // The Connect call for (epoch, rank), or null. Called from the accepting thread.
  std::function<std::shared_ptr<Rendezvous>(int64_t epoch, int rank)> find_rendezvous;
};

// Connections in handshake at one time. A member needs a millisecond, so when a flood brings more,
// the oldest is closed rather than the newest refused.
inline constexpr size_t kMaxPendingHandshakes = 64;

// Owned by the Listener; the thread runs from construction to destruction.
class Acceptor {
 public:
  explicit Acceptor(AcceptorOptions options);
  ~Acceptor();

  // Thread-safe.
  int64_t n_refused() const { return n_refused_.load(std::memory_order_relaxed); }

 private:
  struct Pending {
    UniqueFd socket;
    bool is_unix = false;
    std::string from;
    SteadyTime deadline;
    bool has_hello = false;
    size_t n_received = 0;  // of the current message
    HelloMessage hello;
    Nonce nonce = {};
    ProofMessage proof;
    std::vector<UniqueFd> fds;
    std::shared_ptr<Rendezvous> rendezvous;
  };

  void Run();
  void AcceptAll(int listener, bool is_unix);
  // Reads what there is. False when the connection is finished: delivered, or refused.
  bool Advance(Pending* pending);
  absl::Status AnswerHello(Pending* pending);
  absl::Status AcceptProof(Pending* pending);
  void Refuse(const Pending& pending, const absl::Status& reason);

  const AcceptorOptions options_;
  std::atomic<int64_t> n_refused_ = 0;
  // The rest belongs to the accepting thread.
  std::list<Pending> pending_;  // oldest first
  SteadyTime accept_after_ = SteadyTime::InfinitePast();
  SteadyTime next_log_ = SteadyTime::InfinitePast();
  int64_t n_unlogged_ = 0;
  std::thread thread_;
};

}  // namespace bora
