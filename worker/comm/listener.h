// Accepts and dials the links of a worker process: see mesh.h.
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
  // Numeric local address to listen on; the port is the kernel's choice.
  std::string bind_address = "127.0.0.1";
  // Address that peers are told; empty: bind_address, which then must not be a wildcard.
  std::string advertise_address;
  absl::Duration handshake_timeout = absl::Seconds(2);
};

// Accepts the links of all epochs of one worker process, from construction to destruction.
// Thread-safe. Meshes may outlive it.
class Listener {
 public:
  // Binds a TCP port and an abstract unix socket and starts the accepting thread.
  static absl::StatusOr<std::unique_ptr<Listener>> Create(const ListenerOptions& options);
  // Pending Connect calls must have returned.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  const Endpoint& endpoint() const;

  // Links my_rank with its peers: the higher rank dials, the lower accepts; retries until the
  // deadline because peers may come late. Blocks; several calls (other epochs, other ranks) may be
  // under way. DEADLINE_EXCEEDED names every rank that is missing and what was seen of it; ABORTED
  // after AbortEpochsBefore; INVALID_ARGUMENT names the bad option.
  absl::StatusOr<std::unique_ptr<Mesh>> Connect(const MeshOptions& options);

  // Ends every Connect and aborts every Mesh made here whose epoch is lower than `epoch`, and
  // refuses such epochs from now on. The one call a worker makes when a new epoch is announced.
  void AbortEpochsBefore(int64_t epoch, absl::Status reason);

  // Connections closed because they failed to authenticate (stranger, wrong secret, replay,
  // garbage, timeout) or came for an epoch that is not being connected here.
  int64_t n_refused() const;

 private:
  class Impl;
  explicit Listener(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace bora
