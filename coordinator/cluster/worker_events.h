// What the coordinator's end of the worker streams tells whoever decides about workers: the engine.
#pragma once

#include <memory>
#include <string>

#include "coordinator/cluster/worker_stream.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

// Thread-safe. Streams are compared by address; a stream is told of in this order: attached,
// messages, gone.
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  // An authenticated worker has said what it is.
  virtual void OnWorkerAttached(std::shared_ptr<WorkerStream> stream, Hello hello) = 0;
  // `receipt` is let go of when the message has been dealt with: it counts what waits.
  virtual void OnWorkerMessage(std::shared_ptr<WorkerStream> stream, WorkerMessage message,
                               std::shared_ptr<void> receipt) = 0;
  virtual void OnWorkerGone(std::shared_ptr<WorkerStream> stream, std::string reason) = 0;
};

}  // namespace bora
