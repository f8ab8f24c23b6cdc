// Options: which workers are accepted, how they are watched, and what group they form.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

struct ClusterOptions {
  std::string build_id;  // the coordinator's; workers of another build are refused
  // The model that the group loads. stage and tensor_rank are filled in for each worker.
  LoadModel load;
  // The group's limits. n_blocks is computed when the group forms: the number of KV blocks for
  // which every rank has memory.
  GroupLimits limits;
  int64_t kv_cache_bytes_max = int64_t{1} << 30;  // KV cache of each worker, at most
  // Whether the operator has chosen kv_cache_bytes_max. If so, it also limits workers that have set
  // memory for the KV cache aside themselves (GPUs).
  bool kv_cache_bytes_given = false;
  // Fingerprint of the checkpoint that workers must have; empty: the workers have to agree on one.
  std::string fingerprint;
  // Properties of the model that tell which ranks read the same bytes: the number of KV heads, and
  // whether the output head shares the embedding's weights.
  int64_t n_kv_heads = 1;
  bool tied_head = false;
  absl::Duration heartbeat_interval = absl::Milliseconds(500);
  // A worker that is silent for longer than suspect_timeout is suspect; for longer than
  // heartbeat_timeout, it is lost.
  absl::Duration suspect_timeout = absl::Milliseconds(1500);
  absl::Duration heartbeat_timeout = absl::Seconds(5);
  // How long all ranks together may take to join an epoch. GPUs of several hosts take some seconds.
  // A worker that dies meanwhile is noticed at once, not by this timeout.
  absl::Duration join_timeout = absl::Seconds(30);
  // A step hangs if it takes longer than step_timeout. If the cost model predicts its time, it also
  // hangs if it takes longer than step_timeout_min + step_timeout_predictions * prediction. Time in
  // which a rank is suspect does not count; that rank's heartbeat_timeout runs then.
  absl::Duration step_timeout = absl::Seconds(60);
  absl::Duration step_timeout_min = absl::Seconds(5);
  double step_timeout_predictions = 20;
  // A worker that loads is dropped if it reports no further loaded bytes for this long.
  absl::Duration load_stall_timeout = absl::Seconds(60);
  int32_t max_spares = 16;  // attached workers beyond the n_ranks() of the group

  // Ranks of each stage, stages, and ranks of the group. Rank r is tensor rank r % tp_size() of
  // stage r / tp_size().
  int32_t tp_size() const { return load.tensor_parallel_size; }
  int32_t pp_size() const { return static_cast<int32_t>(load.layers_per_stage.size()); }
  int32_t n_ranks() const { return pp_size() * tp_size(); }
};

}  // namespace bora
