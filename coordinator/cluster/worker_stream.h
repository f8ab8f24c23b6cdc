// The coordinator's way to one worker.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// Where messages to one worker go. Called on the engine thread only; no call blocks. Messages
// arrive in the order of the calls.
class WorkerStream {
 public:
  virtual ~WorkerStream() = default;
  virtual void Send(CoordinatorMessage message) = 0;
  // Sends a plan that all streams of a group share, so that it is put into its form on the wire
  // once.
  virtual void SendPlan(std::shared_ptr<const StepPlan> plan) = 0;
  // Ends the stream; the worker learns the reason if it can still be reached. REQUIRES: no other
  // call of this stream follows.
  virtual void Close(absl::Status reason) = 0;
};

}  // namespace bora
