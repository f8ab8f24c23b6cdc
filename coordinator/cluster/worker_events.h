// What the coordinator's end of the worker streams tells whoever decides about workers: the engine.
#pragma once

#include <memory>
#include <string>

#include "coordinator/cluster/worker_link.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

// Thread-safe. Links are compared by address; a link is told of in this order: attached, messages,
// gone.
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  // An authenticated worker has said what it is.
  virtual void OnWorkerAttached(std::shared_ptr<WorkerLink> link, Hello hello) = 0;
  // `receipt` is let go of when the message has been dealt with: it counts what waits.
  virtual void OnWorkerMessage(std::shared_ptr<WorkerLink> link, WorkerMessage message,
                               std::shared_ptr<void> receipt) = 0;
  virtual void OnWorkerGone(std::shared_ptr<WorkerLink> link, std::string reason) = 0;
};

}  // namespace bora
