// What a worker does with what the coordinator says, without RPC: loads weights, joins and leaves
// groups, runs steps.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/mailbox.h"
#include "model/protocol/worker_protocol.h"
#include "worker/comm/listener.h"
#include "worker/comm/mesh.h"
#include "worker/stage/rank_loader.h"
#include "worker/stage/step_executor.h"

namespace bora {

struct AgentOptions {
  std::string build_id;
  std::string host;
};

// Thread-safe. One thread of its own, the rank thread, owns device, weights, KV cache and mesh.
class WorkerAgent {
 public:
  // Says something to the coordinator on the connection that asked for it; false, and nothing
  // happens, when that connection is gone. Called on the rank thread.
  using SendFunction = std::function<bool(int64_t connection_id, WorkerMessage message)>;

  WorkerAgent(AgentOptions options, std::unique_ptr<RankLoader> loader,
              std::unique_ptr<Listener> listener, SendFunction send);
  // Aborts what runs and joins the rank thread.
  ~WorkerAgent();

  // The first message of a connection.
  Hello MakeHello() const;
  Heartbeat MakeHeartbeat() const;

  // Takes a message of the connection; returns at once. An error is a protocol violation: the
  // connection must end.
  absl::Status OnMessage(int64_t connection_id, CoordinatorMessage message);
  // The connection is gone: what runs is aborted, weights stay.
  void OnDisconnected();

  // True when the rank thread has not come back from a step within `limit` after it was told to
  // leave, or has been leaving for longer, as when a library cannot end what it has begun: it will
  // not come back, and the process must end.
  bool HasHung(absl::Duration limit) const;

 private:
  struct Item {
    int64_t connection_id;
    CoordinatorMessage message;
  };

  void Run();
  void Handle(Item item);
  void HandleLoad(int64_t connection_id, const LoadModel& load);
  absl::Status Load(int64_t connection_id, const LoadModel& load);
  void HandleJoin(int64_t connection_id, const JoinGroup& join);
  absl::Status Join(const JoinGroup& join);
  // Whether what the coordinator says fits the weights that are loaded and what was said when they
  // were.
  absl::Status CheckJoin(const JoinGroup& join) const;
  void HandlePlan(int64_t connection_id, const StepPlan& plan);
  // Finishes the oldest plan that was begun and sends its result.
  void FinishPlan();
  void OnStepFailed(int64_t connection_id, const absl::Status& status);
  // The next message; meanwhile plans that are done are finished. Nothing when the mailbox was
  // closed.
  absl::optional<Item> NextItem();
  void Leave();
  // Ends waiting in epochs up to this one, from any thread.
  void AbortEpochsUpTo(int64_t epoch, const std::string& reason);

  const AgentOptions options_;
  const std::unique_ptr<RankLoader> loader_;
  const std::unique_ptr<Listener> listener_;
  const SendFunction send_;
  Mailbox<Item> mailbox_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> latest_epoch_{0};
  std::atomic<int64_t> step_count_{0};
  std::atomic<int64_t> step_begin_us_{0};  // steady time of the step in progress, 0 when none
  // Steady times at which the rank thread was told to leave, and began to; 0 = it has.
  std::atomic<int64_t> leave_asked_us_{0};
  std::atomic<int64_t> leaving_since_us_{0};

  mutable absl::Mutex mutex_;
  absl::optional<LoadedModel> loaded_ ABSL_GUARDED_BY(mutex_);

  // Owned by the rank thread.
  std::unique_ptr<StepExecutor> rank_;
  std::unique_ptr<Mesh> mesh_;
  int64_t joined_epoch_ = 0;
  struct Begun {
    int64_t connection_id = 0;
    int64_t begin_us = 0;  // steady time
  };
  std::deque<Begun> begun_;  // plans of joined_epoch_ that are not finished, oldest first

  std::thread thread_;
};

}  // namespace bora
