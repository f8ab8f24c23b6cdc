// The stream by which the coordinator sends messages to one worker, as an interface: tests of the
// cluster need no gRPC.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// Once the worker is attached, the engine thread makes all calls. No call blocks. Messages arrive
// in the order of the calls.
class WorkerStream {
 public:
  virtual ~WorkerStream() = default;
  // Sends the message later; dropped if the stream ends before.
  virtual void Send(CoordinatorMessage message) = 0;
  // Sends a plan. All streams of a group get the same object, so that it can be serialised once.
  virtual void SendPlan(std::shared_ptr<const StepPlan> plan) = 0;
  // Ends the stream. The worker gets the reason if it can still be reached. REQUIRES: no other call
  // of this stream follows.
  virtual void Close(absl::Status reason) = 0;
};

}  // namespace bora
