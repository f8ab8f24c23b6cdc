// What the public services need of the engine, as an interface, so that tests of the services can
// replace the engine by a fake.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>

#include "coordinator/api/api_error.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/api/server_snapshot.h"

namespace bora {

// Generates text for requests. A handle names one request from Submit to its end and is never used
// again. Thread-safe; no function waits for the engine thread.
class Generator {
 public:
  virtual ~Generator() = default;

  // Puts a request into the queue and returns its handle, which is > 0. From then on `observer` is
  // told the request's output until the request ends; its first call may come before Submit has
  // returned. Returns an error if the request is refused: QueueFull, NotReady or Draining of
  // api_errors.h. The observer of a refused request is never called.
  virtual std::variant<uint64_t, ApiError> Submit(RequestSpec spec,
                                                  std::shared_ptr<RequestObserver> observer) = 0;
  // Ends a request whose client is gone; its slot and KV blocks are free for the next step. The
  // observer may still get calls that were under way, and nothing after them. Unknown and ended
  // handles are ignored.
  virtual void Cancel(uint64_t handle) = 0;
  // Lets a request go on that was paused because OnDelta returned false. Unknown and ended handles
  // are ignored.
  virtual void Resume(uint64_t handle) = 0;
  // The state of the server; it is at most 125 ms old as long as the engine thread runs.
  virtual ServerSnapshot Snapshot() const = 0;
};

}  // namespace bora
