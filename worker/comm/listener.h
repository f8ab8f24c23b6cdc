// Accepts and dials the links of a worker process. mesh.h describes the whole transport.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/mesh.h"

namespace bora {

struct ListenerOptions {
  // Numeric local address to listen on, without a port: the kernel chooses it.
  std::string bind_address = "127.0.0.1";
  // Numeric address that peers are told, without a port; empty: bind_address, which then must not
  // be a wildcard.
  std::string advertise_address;
  // Connections whose handshake takes longer are closed. A member needs about a millisecond.
  absl::Duration handshake_timeout = absl::Seconds(2);
};

// Accepts the links of all epochs of one worker process, from construction to destruction.
// Thread-safe. Meshes may outlive it.
class Listener {
 public:
  // Binds a TCP port and an abstract unix socket and starts the accepting thread. INVALID_ARGUMENT
  // if an address is malformed or peers would be told a wildcard; UNAVAILABLE on kernel errors.
  static absl::StatusOr<std::unique_ptr<Listener>> Create(const ListenerOptions& options);
  // REQUIRES: every Connect call has returned.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Where peers reach this listener: to be handed to them through the coordinator.
  const Endpoint& endpoint() const;

  // Links options.my_rank with options.peers: of two ranks the higher dials and the lower accepts.
  // Blocks until all links are up and retries until options.deadline, because peers may come late.
  // Several calls, for other epochs or other ranks, may be under way in other threads.
  // DEADLINE_EXCEEDED names every rank that is missing and the last error seen with it; ABORTED
  // after AbortEpochsBefore; INVALID_ARGUMENT names the bad option; UNAVAILABLE if the process
  // cannot get a descriptor.
  absl::StatusOr<std::unique_ptr<Mesh>> Connect(const MeshOptions& options);

  // Ends every Connect and aborts every Mesh made here whose epoch is lower than `epoch`, and
  // refuses such epochs from now on; all of these get ABORTED with the message of `reason`. A
  // worker calls this when a new epoch is announced, and needs to end nothing else of the
  // transport. Does nothing if an equal or later epoch was given before.
  void AbortEpochsBefore(int64_t epoch, const absl::Status& reason);

  // Number of connections closed because they failed to authenticate (stranger, wrong secret,
  // replay, garbage, timeout) or came for an epoch that is not being connected here.
  int64_t n_refused() const;

 private:
  class Impl;
  explicit Listener(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace bora
