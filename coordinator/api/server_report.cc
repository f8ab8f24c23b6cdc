#include "coordinator/api/server_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace bora {
namespace {

constexpr absl::Duration kWaitingInterval = absl::Seconds(10);
constexpr absl::Duration kLoadingInterval = absl::Seconds(5);
constexpr absl::Duration kThroughputInterval = absl::Seconds(10);

constexpr double kGiB = double{1 << 30};

}  // namespace

std::vector<ReportLine> ServerReport::OnTick(absl::Duration now, const ServerSnapshot& snapshot,
                                             const std::function<CallStats()>& take_stats) {
  lines_.clear();
  ReportWaiting(now, snapshot);
  ReportLoading(now, snapshot);
  if (!has_last_load_) {
    // The first call only sets the marks that later rates begin at.
    has_last_load_ = true;
    last_load_time_ = now;
    last_load_ = snapshot.load;
    take_stats();
  } else if (now - last_load_time_ >= kThroughputInterval) {
    ReportThroughput(now, snapshot.load, take_stats());
    last_load_time_ = now;
    last_load_ = snapshot.load;
  }
  return std::move(lines_);
}

void ServerReport::ReportWaiting(absl::Duration now, const ServerSnapshot& snapshot) {
  const bool waits = snapshot.group_state == GroupState::kWaitingForWorkers && !snapshot.draining;
  const auto n_placed = static_cast<int32_t>(
      std::count_if(snapshot.workers.begin(), snapshot.workers.end(),
                    [](const WorkerSnapshot& worker) { return worker.stage >= 0; }));
  if (!waits || n_placed >= n_ranks_) {
    // The next wait has its first line at once.
    next_waiting_ = -absl::InfiniteDuration();
    return;
  }
  if (now < next_waiting_) return;
  next_waiting_ = now + kWaitingInterval;
  lines_.push_back({LogLevel::kInfo,
                    absl::StrCat("waiting for ", n_ranks_ - n_placed, " of ", n_ranks_, " workers"),
                    {{"detail", snapshot.group_detail}}});
}

void ServerReport::ReportLoading(absl::Duration now, const ServerSnapshot& snapshot) {
  int64_t loaded_bytes = 0;
  int64_t total_bytes = 0;
  int32_t n_loading = 0;
  double slowest = 1;
  for (const WorkerSnapshot& worker : snapshot.workers) {
    if (worker.state != WorkerState::kLoading) continue;
    ++n_loading;
    loaded_bytes += worker.load_done_bytes;
    total_bytes += worker.load_total_bytes;
    slowest = std::min(slowest, worker.load_progress);
  }
  if (n_loading == 0) {
    next_loading_ = absl::InfiniteDuration();
    return;
  }
  if (next_loading_ == absl::InfiniteDuration()) {
    // Loading has just begun: there is no rate before an interval has passed.
    next_loading_ = now + kLoadingInterval;
    last_loading_ = now;
    last_loaded_bytes_ = loaded_bytes;
  }
  if (now < next_loading_) return;
  // The sum may have become smaller: it lacks workers that have ended their load since last time.
  const double rate = static_cast<double>(std::max<int64_t>(loaded_bytes - last_loaded_bytes_, 0)) /
                      absl::ToDoubleSeconds(now - last_loading_);
  ReportLine line{LogLevel::kInfo,
                  "loading",
                  {{"workers", n_loading},
                   {"slowest_percent", slowest * 100},
                   {"gib", static_cast<double>(loaded_bytes) / kGiB},
                   {"of_gib", static_cast<double>(total_bytes) / kGiB},
                   {"gb_per_s", rate / 1e9}}};
  if (rate > 0) {
    line.fields.emplace_back("eta_s", static_cast<double>(total_bytes - loaded_bytes) / rate);
  }
  lines_.push_back(std::move(line));
  next_loading_ = now + kLoadingInterval;
  last_loading_ = now;
  last_loaded_bytes_ = loaded_bytes;
}

void ServerReport::ReportThroughput(absl::Duration now, const LoadSnapshot& load,
                                    const CallStats& stats) {
  const double seconds = absl::ToDoubleSeconds(now - last_load_time_);
  const int64_t n_in = load.n_prompt_tokens_total - last_load_.n_prompt_tokens_total;
  const int64_t n_out = load.n_output_tokens_total - last_load_.n_output_tokens_total;
  const int64_t n_finished = load.n_finished_requests_total - last_load_.n_finished_requests_total;
  const bool is_busy = load.n_running > 0 || load.n_waiting > 0;
  if (!is_busy && n_in == 0 && n_out == 0 && n_finished == 0) return;
  lines_.push_back(
      {LogLevel::kInfo,
       "throughput",
       {{"running", load.n_running},
        {"waiting", load.n_waiting},
        {"requests_per_s", static_cast<double>(n_finished) / seconds},
        {"input_tokens_per_s", static_cast<double>(n_in) / seconds},
        {"output_tokens_per_s", static_cast<double>(n_out) / seconds},
        {"cached_tokens_per_s", static_cast<double>(load.n_cached_prompt_tokens_total -
                                                    last_load_.n_cached_prompt_tokens_total) /
                                    seconds},
        {"first_token_ms_p50", absl::ToDoubleMilliseconds(stats.first_token_p50)},
        {"kv_percent", load.n_blocks == 0 ? 0.0 : 100.0 * load.n_blocks_used / load.n_blocks},
        {"preemptions", load.n_preemptions_total - last_load_.n_preemptions_total},
        {"calls", stats.n_calls},
        {"errors", stats.n_errors},
        {"seconds", seconds}}});
}

bool EngineWatch::IsStalled(int64_t count) {
  n_ticks_without_change_ = count == last_count_ ? n_ticks_without_change_ + 1 : 0;
  last_count_ = count;
  return n_ticks_without_change_ >= kStalledTicks;
}

}  // namespace bora
