// Messages on their way from the engine to the workers: put into their form on the wire and written
// by a thread of its own, so that the engine thread goes on at once, and a plan for many ranks is
// converted and serialised once.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <thread>
#include <variant>

#include "base/mailbox.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// Takes serialised messages for one worker. Called on the outbox's thread; must not block.
class WireSink {
 public:
  virtual ~WireSink() = default;
  virtual void Write(grpc::ByteBuffer message, bool is_heartbeat) = 0;
};

// Thread-safe. Messages of one thread reach a sink in the order in which they were posted.
class WorkerOutbox {
 public:
  WorkerOutbox();
  // As Stop.
  ~WorkerOutbox();
  WorkerOutbox(const WorkerOutbox&) = delete;
  WorkerOutbox& operator=(const WorkerOutbox&) = delete;

  // What is posted after Stop is dropped.
  void Post(std::shared_ptr<WireSink> sink, CoordinatorMessage message);
  // A plan that is posted for one sink after another is serialised for the first of them only.
  void Post(std::shared_ptr<WireSink> sink, std::shared_ptr<const StepPlan> plan);
  // Writes what has been posted and joins the thread. Later calls do nothing.
  void Stop();

 private:
  struct Item {
    std::shared_ptr<WireSink> sink;
    std::variant<CoordinatorMessage, std::shared_ptr<const StepPlan>> message;
  };

  void Run();

  // Unbounded: the engine has few plans in flight, and a sink closes when too much waits in it.
  Mailbox<Item> items_;
  std::thread thread_;
};

}  // namespace bora
