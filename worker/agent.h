// The worker without RPC: takes the coordinator's messages, loads weights, joins and leaves groups,
// executes steps, and sends the answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/mailbox.h"
#include "model/protocol/worker_protocol.h"
#include "worker/comm/listener.h"
#include "worker/comm/mesh.h"
#include "worker/stage/rank_loader.h"
#include "worker/stage/step_executor.h"

namespace bora {

// Both are reported to the coordinator in Hello.
struct AgentOptions {
  std::string build_id;
  std::string host;  // host name
};

// Thread-safe. Has one thread of its own, the rank thread, which owns device, weights, KV cache and
// mesh. Messages reach it through a mailbox and are handled in order; aborts bypass the mailbox.
class WorkerAgent {
 public:
  // Sends a message to the coordinator on the connection `connection_id`, which asked for it.
  // Returns false and sends nothing if that connection is gone. Called on the rank thread.
  using SendFunction = std::function<bool(int64_t connection_id, WorkerMessage message)>;

  // Starts the rank thread. `send` may be called until the destructor has returned.
  WorkerAgent(AgentOptions options, std::unique_ptr<RankLoader> loader,
              std::unique_ptr<Listener> listener, SendFunction send);
  // Aborts the current load, join or step and joins the rank thread.
  ~WorkerAgent();

  // The first message of a connection: what this worker is and which weights it has loaded.
  Hello MakeHello() const;
  // The steps finished so far, and how long the step in progress has taken.
  Heartbeat MakeHeartbeat() const;

  // Takes a message that came on the connection `connection_id`; returns at once. Messages that are
  // not for the rank are ignored. RESOURCE_EXHAUSTED if too many messages wait for the rank thread:
  // the coordinator breaks the protocol, and the connection must end.
  absl::Status OnMessage(int64_t connection_id, CoordinatorMessage message);
  // To be called when the connection has ended: aborts the current join or step and leaves the
  // group. The weights stay loaded.
  void OnDisconnected();

  // Whether the rank thread will not come back, so that the process must end: it is still in a step
  // more than `limit` after it was told to leave its group, or it has been leaving for more than
  // `limit`. This happens if a library (NCCL) cannot end work that it has begun.
  bool HasHung(absl::Duration limit) const;

 private:
  // A message and the connection on which it came and must be answered.
  struct Item {
    int64_t connection_id;
    CoordinatorMessage message;
  };

  // The loop of the rank thread, which alone calls the functions from here to Leave.
  void Run();
  void Handle(Item item);
  // Load and Join, and the answers to the coordinator: LoadResult and JoinResult.
  void HandleLoad(int64_t connection_id, const LoadModel& load);
  absl::Status Load(int64_t connection_id, const LoadModel& load);
  void HandleJoin(int64_t connection_id, const JoinGroup& join);
  absl::Status Join(const JoinGroup& join);
  // Checks that the group fits the weights that are loaded and the limits that they were loaded
  // for. FAILED_PRECONDITION: none are loaded; INVALID_ARGUMENT, RESOURCE_EXHAUSTED: names a limit.
  absl::Status CheckJoin(const JoinGroup& join) const;
  // Begins the plan; first finishes earlier plans if the rank has no room for another.
  void HandlePlan(int64_t connection_id, const StepPlan& plan);
  // Waits for the oldest plan that was begun, and sends its result if this rank has one.
  void FinishPlan();
  // Leaves the group and reports the error of a plan, by which the epoch is lost.
  void OnStepFailed(int64_t connection_id, const absl::Status& status);
  // Waits for the next message; finishes plans that are done meanwhile. Nothing if the mailbox is
  // closed.
  std::optional<Item> NextItem();
  // Leaves the group, if this rank is in one: ends the epoch and destroys the mesh.
  void Leave();
  // Any thread: ends all waiting for peers in epochs up to `epoch`, now and in the future. Also
  // notes the time for HasHung.
  void AbortEpochsUpTo(int64_t epoch, const std::string& reason);

  const AgentOptions options_;
  const std::unique_ptr<RankLoader> loader_;
  const std::unique_ptr<Listener> listener_;
  const SendFunction send_;
  Mailbox<Item> mailbox_;
  std::atomic<bool> stopping_{false};      // the destructor runs
  std::atomic<int64_t> latest_epoch_{0};   // the latest that this worker was told to join; 0: none
  std::atomic<int64_t> step_count_{0};     // plans finished, over all epochs
  std::atomic<int64_t> step_begin_us_{0};  // steady time, start of the step in progress; 0: none
  // Steady times at which the rank thread was told to leave, and at which it began to leave; 0 if
  // there is nothing to leave or it has left.
  std::atomic<int64_t> leave_asked_us_{0};
  std::atomic<int64_t> leaving_since_us_{0};

  mutable absl::Mutex mutex_;
  std::optional<LoadedModel> loaded_ ABSL_GUARDED_BY(mutex_);  // of rank_

  // Owned by the rank thread, from here to begun_.
  std::unique_ptr<StepExecutor> rank_;  // null: no weights are loaded
  std::unique_ptr<Mesh> mesh_;          // null: in no group, or alone in one
  int64_t joined_epoch_ = 0;            // 0: in no group
  // A plan that rank_ has begun and not finished.
  struct Begun {
    int64_t connection_id = 0;
    int64_t begin_us = 0;  // steady time of its Begin
  };
  std::deque<Begun> begun_;  // plans of joined_epoch_ that are not finished, oldest first

  std::thread thread_;
};

}  // namespace bora
