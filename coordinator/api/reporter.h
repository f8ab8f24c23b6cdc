// The thread that looks at the coordinator once a second from outside: it writes what ServerReport
// finds worth a line, sums up refusals, and says when the engine no longer moves.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include "base/host/unique_fd.h"
#include "coordinator/api/call_stats.h"
#include "coordinator/api/server_snapshot.h"

namespace bora {

// What the reporter looks at. The functions are thread-safe and outlive the reporter.
struct ReporterSources {
  int32_t n_ranks = 1;
  std::function<ServerSnapshot()> snapshot;
  std::function<int64_t()> engine_loop_count;  // of Engine
  std::function<void(bool)> set_live;          // called when the engine stops or moves again
  std::function<CallStats()> take_call_stats;  // of AccessLog
  std::function<void()> flush_refusals;        // of AccessLog
};

// Works from construction to destruction.
class Reporter {
 public:
  explicit Reporter(ReporterSources sources);
  ~Reporter();

 private:
  void Run();

  const ReporterSources sources_;
  const UniqueFd stop_event_;
  std::thread thread_;
};

}  // namespace bora
