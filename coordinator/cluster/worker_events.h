// The events that the coordinator's end of the worker streams reports to the engine.
#pragma once

#include <memory>
#include <string>

#include "coordinator/cluster/worker_stream.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

// Thread-safe; called on gRPC's threads, and returns at once. A stream is identified by its
// address. The calls for one stream come in this order: OnWorkerAttached, any number of
// OnWorkerMessage, OnWorkerGone.
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  // A worker has authenticated and has sent its hello.
  virtual void OnWorkerAttached(std::shared_ptr<WorkerStream> stream, Hello hello) = 0;
  // The worker has sent a message. The implementation keeps `receipt` until it has handled the
  // message: the number of receipts bounds the messages that wait (WorkerInbox).
  virtual void OnWorkerMessage(std::shared_ptr<WorkerStream> stream, WorkerMessage message,
                               std::shared_ptr<void> receipt) = 0;
  // The stream has ended, for this reason (for people).
  virtual void OnWorkerGone(std::shared_ptr<WorkerStream> stream, std::string reason) = 0;
};

}  // namespace bora
