// What a coordinator logs about itself: which workers it waits for, how far loading is, how many
// tokens it has served, and whether its engine thread still makes progress.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/log.h"
#include "coordinator/api/call_stats.h"
#include "coordinator/api/server_snapshot.h"

namespace bora {

// One line of the log.
struct ReportLine {
  LogLevel level = LogLevel::kInfo;
  std::string message;
  std::vector<LogField> fields;
};

// Turns snapshots of the server into lines of the log. Pure: no clock, no I/O. Owned by one thread.
class ServerReport {
 public:
  // n_ranks: workers that a group needs.
  explicit ServerReport(int32_t n_ranks) : n_ranks_(n_ranks) {}

  // Returns the lines that are due. Call every second. `now` is on a monotonic clock. `take_stats`
  // returns the calls since its last call; it is called every 10 s.
  std::vector<ReportLine> OnTick(absl::Duration now, const ServerSnapshot& snapshot,
                                 const std::function<CallStats()>& take_stats);

 private:
  // Each of these adds at most one line to lines_.
  // How many workers are missing, while the group waits for workers.
  void ReportWaiting(absl::Duration now, const ServerSnapshot& snapshot);
  // Bytes and rate of the workers that load, and when they will be done.
  void ReportLoading(absl::Duration now, const ServerSnapshot& snapshot);
  // Rates since the last such line; nothing if the server was idle.
  void ReportThroughput(absl::Duration now, const LoadSnapshot& load, const CallStats& stats);

  const int32_t n_ranks_;
  std::vector<ReportLine> lines_;                            // of the current OnTick
  absl::Duration next_waiting_ = -absl::InfiniteDuration();  // next line about missing workers
  // Time of the next line about loading; infinite while no worker loads.
  absl::Duration next_loading_ = absl::InfiniteDuration();
  absl::Duration last_loading_;    // time of the last line about loading, or when loading began
  int64_t last_loaded_bytes_ = 0;  // sum over all workers that loaded at last_loading_
  bool has_last_load_ = false;     // last_load_ is set
  absl::Duration last_load_time_;
  LoadSnapshot last_load_;  // at last_load_time_; rates are differences to it
};

// Notices that the engine thread is stalled: the engine raises a count several times a second. The
// watch measures time by its own calls and not by a clock, so that a process that was stopped for a
// while (SIGSTOP, a suspended machine) is not taken for a stalled one. Owned by one thread.
class EngineWatch {
 public:
  // Call every second with the engine's count. True if the count has not changed for kStalledTicks
  // calls.
  bool IsStalled(int64_t count);

  static constexpr int kStalledTicks = 10;  // seconds, at a call per second

 private:
  int64_t last_count_ = -1;
  int n_ticks_without_change_ = 0;
};

}  // namespace bora
