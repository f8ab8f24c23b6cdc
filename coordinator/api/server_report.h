// What a coordinator says of itself without being asked: whom it waits for, how far loading is,
// what it has served, and whether its engine still moves.
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

struct ReportLine {
  LogLevel level = LogLevel::kInfo;
  std::string message;
  std::vector<LogField> fields;
};

// Turns what the server is doing into lines of the log. Pure: no clock, no I/O. Owned by one
// thread.
class ServerReport {
 public:
  explicit ServerReport(int32_t n_ranks) : n_ranks_(n_ranks) {}

  // Call every second. `now` is on a clock that nobody sets. `take_stats` gives what clients met
  // since its last call; it is called every 10 s.
  std::vector<ReportLine> OnTick(absl::Duration now, const ServerSnapshot& snapshot,
                                 const std::function<CallStats()>& take_stats);

 private:
  void ReportWaiting(absl::Duration now, const ServerSnapshot& snapshot);
  void ReportLoading(absl::Duration now, const ServerSnapshot& snapshot);
  void ReportThroughput(absl::Duration now, const LoadSnapshot& load, const CallStats& stats);

  const int32_t n_ranks_;
  std::vector<ReportLine> lines_;  // of this tick
  absl::Duration next_waiting_ = -absl::InfiniteDuration();
  absl::Duration next_loading_ = absl::InfiniteDuration();  // infinite: nobody loads
  absl::Duration last_loading_;
  int64_t last_loaded_bytes_ = 0;
  bool has_last_load_ = false;
  absl::Duration last_load_time_;
  LoadSnapshot last_load_;  // at last_load_time_
};

// Whether the engine moves, from a count that it raises several times a second. It goes by this
// object's own calls, so that a process that was stopped and goes on is not taken for a stalled
// one. Owned by one thread.
class EngineWatch {
 public:
  // Call every second. True when the count has not changed for `kStalledTicks` calls.
  bool IsStalled(int64_t count);

  static constexpr int kStalledTicks = 10;

 private:
  int64_t last_count_ = -1;
  int n_ticks_without_change_ = 0;
};

}  // namespace bora
