// How workers are attached, watched and put together to a group.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

struct ClusterOptions {
  std::string build_id;  // workers of another build are refused
  // What the group loads; stage and tensor_rank are filled in for each worker.
  LoadModel load;
  // n_blocks is computed: the number of KV blocks that fits every rank.
  GroupLimits limits;
  int64_t kv_cache_bytes_max = int64_t{1} << 30;  // per worker
  // The operator gave the size: it also holds for workers that have set memory aside.
  bool kv_cache_bytes_given = false;
  // Of the checkpoint; empty: workers have to agree on one.
  std::string fingerprint;
  // Of the model, to tell which ranks read the same bytes.
  int64_t n_kv_heads = 1;
  bool tied_head = false;
  absl::Duration heartbeat_interval = absl::Milliseconds(500);
  // Silence that makes a worker suspect, and silence that makes it lost.
  absl::Duration suspect_timeout = absl::Milliseconds(1500);
  absl::Duration heartbeat_timeout = absl::Seconds(5);
  // GPUs of several hosts meet in some seconds; a worker that dies meanwhile is noticed at once.
  absl::Duration join_timeout = absl::Seconds(30);
  // A step has hung if it takes longer than step_timeout, or longer than step_timeout_min and
  // step_timeout_predictions times the time that was predicted for it. Time in which a rank is
  // suspect does not count: its silence does.
  absl::Duration step_timeout = absl::Seconds(60);
  absl::Duration step_timeout_min = absl::Seconds(5);
  double step_timeout_predictions = 20;
  // A worker that loads gives up its place unless it gets further at least this often.
  absl::Duration load_stall_timeout = absl::Seconds(60);
  int32_t max_spares = 16;

  int32_t tp_size() const { return load.tensor_parallel_size; }
  int32_t pp_size() const { return static_cast<int32_t>(load.layers_per_stage.size()); }
  int32_t n_ranks() const { return pp_size() * tp_size(); }
};

}  // namespace bora
