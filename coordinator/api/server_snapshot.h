// The state of the server at one moment, for GetServerInfo, the log and the status table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/latency_histogram.h"

namespace bora {

// The states of a group and of a worker, in the order in which they follow each other (the code
// compares them with < and >=). kSuspect: a worker has been silent for longer than suspect_timeout
// and may be lost soon; the group goes on, but no new request is accepted.
enum class GroupState { kWaitingForWorkers, kLoading, kJoining, kServing, kSuspect };
enum class WorkerState { kSpare, kLoading, kLoaded, kJoining, kServing, kSuspect };

// One attached worker.
struct WorkerSnapshot {
  int64_t worker_id = 0;
  std::string host;
  int32_t pid = 0;  // on its host
  std::string device;
  WorkerState state = WorkerState::kSpare;
  // The worker's place in the group; a spare has none: -1, and no layers or bytes.
  int32_t stage = -1;
  int32_t tensor_rank = -1;
  int32_t layer_begin = 0;  // its layers are [layer_begin, layer_end)
  int32_t layer_end = 0;
  int64_t weight_bytes = 0;      // 0 until the weights are loaded
  int64_t kv_cache_bytes = 0;    // 0 until the worker joins an epoch
  double load_progress = 0;      // [0, 1]
  int64_t load_done_bytes = 0;   // as the worker last reported while it loaded
  int64_t load_total_bytes = 0;  // likewise
  SteadyTime last_heartbeat;     // when the worker last sent a message
};

// The scheduler's load now, and totals since the engine's start (names end in _total).
struct LoadSnapshot {
  int32_t n_running = 0;  // sequences with a slot
  int32_t n_waiting = 0;  // sequences without a slot, preempted ones included
  int64_t n_waiting_prompt_tokens = 0;
  int32_t n_blocks = 0;         // KV blocks of the group
  int32_t n_blocks_used = 0;    // blocks that sequences hold; a shared block counts once
  int32_t n_blocks_cached = 0;  // blocks that no sequence holds and the prefix cache keeps
  int32_t n_steps_in_flight = 0;
  int64_t n_output_tokens_total = 0;
  int64_t n_prompt_tokens_total = 0;         // prompt tokens in all plans
  int64_t n_finished_requests_total = 0;     // requests that ended in any way
  int64_t n_steps_total = 0;                 // without steps of calibrations
  int64_t n_cached_prompt_tokens_total = 0;  // prompt tokens found in the prefix cache
  int64_t n_preemptions_total = 0;
  absl::Duration busy_total;                        // time in which at least one step was in flight
  std::vector<absl::Duration> stage_compute_total;  // [n_stages] time in which each stage computed
  LatencyHistogram time_to_first_token;             // from a request's arrival
  LatencyHistogram token_gap;                       // between two tokens of a completion
  // 90th percentile of |predicted - measured| / measured over recent steps.
  double step_time_error_p90 = 0;
};

struct ServerSnapshot {
  SteadyTime time;  // when the snapshot was taken
  GroupState group_state = GroupState::kWaitingForWorkers;
  std::string group_detail;             // for people: what is missing or went wrong; may be empty
  bool draining = false;                // the server is shutting down
  int64_t epoch = 0;                    // of the group's last join; 0 before the first
  std::string weights_digest;           // of the weights of the last group; empty before the first
  std::vector<WorkerSnapshot> workers;  // by stage and tensor rank, spares last
  LoadSnapshot load;
};

}  // namespace bora
