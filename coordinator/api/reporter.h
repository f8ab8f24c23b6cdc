// The thread that inspects the coordinator once a second, independently of the engine thread: it
// logs the lines of ServerReport and the sums of refusals, and it notices when the engine thread
// makes no progress.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include "base/host/unique_fd.h"
#include "coordinator/api/call_stats.h"
#include "coordinator/api/server_snapshot.h"

namespace bora {

// What the reporter inspects, as functions, so that a test needs no engine. The functions are
// thread-safe, and what they refer to outlives the reporter.
struct ReporterSources {
  int32_t n_ranks = 1;                         // workers that a group needs
  std::function<ServerSnapshot()> snapshot;    // Engine::Snapshot
  std::function<int64_t()> engine_loop_count;  // Engine::loop_count
  // PublicServer::SetLive. Called with false when the engine thread is stalled (EngineWatch), and
  // with true when it moves again.
  std::function<void(bool)> set_live;
  std::function<CallStats()> take_call_stats;  // AccessLog::TakeStats
  std::function<void()> flush_refusals;        // AccessLog::FlushRefusals
};

// Reports from construction to destruction, on a thread of its own.
class Reporter {
 public:
  explicit Reporter(ReporterSources sources);
  // Flushes the refusals once more and joins the thread, without waiting for the end of the second.
  ~Reporter();

 private:
  void Run();

  const ReporterSources sources_;
  const UniqueFd stop_event_;  // an eventfd that ends the pause between two reports
  std::thread thread_;
};

}  // namespace bora
