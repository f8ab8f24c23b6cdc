// What the server is doing at one moment, for GetServerInfo, health and the status table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/latency_histogram.h"

namespace bora {

// kSuspect: a worker has not been heard for a while and may be lost soon.
enum class GroupState { kWaitingForWorkers, kLoading, kJoining, kServing, kSuspect };
enum class WorkerState { kSpare, kLoading, kLoaded, kJoining, kServing, kSuspect };

struct WorkerSnapshot {
  int64_t worker_id = 0;
  std::string host;
  int32_t pid = 0;
  std::string device;
  WorkerState state = WorkerState::kSpare;
  int32_t stage = -1;
  int32_t tensor_rank = -1;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int64_t weight_bytes = 0;
  int64_t kv_cache_bytes = 0;
  double load_progress = 0;  // 0 to 1
  int64_t load_done_bytes = 0;
  int64_t load_total_bytes = 0;
  SteadyTime last_heartbeat;
};

struct LoadSnapshot {
  int32_t n_running = 0;
  int32_t n_waiting = 0;
  int64_t n_waiting_prompt_tokens = 0;
  int32_t n_blocks = 0;
  int32_t n_blocks_used = 0;
  int32_t n_blocks_cached = 0;
  int32_t n_steps_in_flight = 0;
  int64_t n_output_tokens_total = 0;
  int64_t n_prompt_tokens_total = 0;
  int64_t n_finished_requests_total = 0;
  int64_t n_steps_total = 0;
  int64_t n_cached_prompt_tokens_total = 0;
  int64_t n_preemptions_total = 0;
  absl::Duration busy_total;                        // steps were in flight
  std::vector<absl::Duration> stage_compute_total;  // [n_stages] of that, while each computed
  LatencyHistogram time_to_first_token;             // of requests, from their arrival
  LatencyHistogram token_gap;                       // between two tokens of a completion
  double step_time_error_p90 = 0;                   // |predicted - measured| / measured
};

struct ServerSnapshot {
  SteadyTime time;  // at which it was true
  GroupState group_state = GroupState::kWaitingForWorkers;
  std::string group_detail;  // why it is not serving, for people
  bool draining = false;
  int64_t epoch = 0;
  std::string weights_digest;  // of what the last group had read; empty before the first
  std::vector<WorkerSnapshot> workers;
  LoadSnapshot load;
};

}  // namespace bora
