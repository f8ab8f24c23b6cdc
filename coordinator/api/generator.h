// What the public services need of the engine, so that they can be tested without one.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>

#include "coordinator/api/api_error.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/request_spec.h"
#include "coordinator/api/server_snapshot.h"

namespace bora {

// Thread-safe.
class Generator {
 public:
  virtual ~Generator() = default;

  // Admits a request to the queue; returns its handle, > 0, after which `observer` hears from it
  // until it ends (also before this call returns). An error if the request is refused, QueueFull,
  // NotReady or Draining of api_errors.h; the observer is never called then.
  virtual std::variant<uint64_t, ApiError> Submit(RequestSpec spec,
                                                  std::shared_ptr<RequestObserver> observer) = 0;
  // The client is gone: frees slot and blocks at the next step. The observer hears nothing more
  // than what is already under way. Unknown or ended handles are ignored.
  virtual void Cancel(uint64_t handle) = 0;
  // The reader has caught up after OnDelta said false.
  virtual void Resume(uint64_t handle) = 0;
  // Of a moment ago: 125 ms at most.
  virtual ServerSnapshot Snapshot() const = 0;
};

}  // namespace bora
