// Messages on their way from the engine to the workers. A thread of the outbox converts, serialises
// and writes them, so that the engine thread does not wait, and a plan for many ranks is serialised
// once.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <thread>
#include <variant>

#include "base/mailbox.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// Takes serialised messages for one worker.
class WireSink {
 public:
  virtual ~WireSink() = default;
  // Sends the message after those of earlier calls. `is_heartbeat`: the message is a heartbeat,
  // which the sink may drop if another one already waits. Called on the outbox's thread; must not
  // block.
  virtual void Write(grpc::ByteBuffer message, bool is_heartbeat) = 0;
};

// Thread-safe. Messages that one thread posts for a sink reach the sink in that order.
class WorkerOutbox {
 public:
  WorkerOutbox();
  // Does what Stop does.
  ~WorkerOutbox();
  WorkerOutbox(const WorkerOutbox&) = delete;
  WorkerOutbox& operator=(const WorkerOutbox&) = delete;

  // Writes the message to the sink, later and on the outbox's thread; returns at once. Messages
  // that are posted after Stop are dropped.
  void Post(std::shared_ptr<WireSink> sink, CoordinatorMessage message);
  // The same for a plan. If one plan is posted for several sinks without other plans in between, it
  // is serialised once.
  void Post(std::shared_ptr<WireSink> sink, std::shared_ptr<const StepPlan> plan);
  // Writes all messages that have been posted, then joins the thread. Later calls do nothing.
  void Stop();

 private:
  struct Item {
    std::shared_ptr<WireSink> sink;
    std::variant<CoordinatorMessage, std::shared_ptr<const StepPlan>> message;
  };

  void Run();

  // Unbounded, since its length is bounded elsewhere: the engine has few plans in flight, and
  // writing to a sink never blocks (a sink in which too many messages wait closes its stream).
  Mailbox<Item> items_;
  std::thread thread_;
};

}  // namespace bora
