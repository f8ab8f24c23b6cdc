// What coordinator and workers say to each other, as plain data; proto/bora/worker/v1alpha1
// documents the same conversation and carries it between processes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/endpoint.h"
#include "model/checkpoint/weight_digest.h"
#include "model/step/step.h"

namespace bora {

// Weights to load: all that decides what a rank holds.
struct LoadModel {
  std::string model_path;
  bool dummy_weights = false;
  uint64_t dummy_seed = 0;
  // Names of base/number_formats.h: "bfloat16"; of the matrices "int8", or empty to be as dtype.
  std::string dtype;
  std::string quantization;
  int32_t tensor_parallel_size = 1;
  std::vector<int32_t> layers_per_stage;  // as many as stages
  int32_t stage = 0;
  int32_t tensor_rank = 0;
  // What the group's plans will have at most; a worker that plans a device's memory counts with it.
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;

  bool operator==(const LoadModel&) const = default;
};

// Weights that a worker holds.
struct LoadedModel {
  LoadModel load;
  // Of the checkpoint as far as opening it tells: config, names, types, shapes, samples.
  std::string fingerprint;
  int64_t weight_bytes = 0;
  int64_t kv_block_bytes = 0;  // of one KV block on this rank
  int64_t max_blocks = 0;      // KV blocks that fit beside the weights
  // The memory that they fit into is a device's, set aside for them: unless the coordinator was
  // told a size, it takes them all.
  bool kv_memory_is_reserved = false;
  WeightDigests digests;  // of the bytes that this rank has read

  bool operator==(const LoadedModel&) const = default;
};

// What a worker says once it has proved the credential (model/protocol/worker_auth.h).
struct Hello {
  std::string build_id;
  std::string host;
  int32_t pid = 0;
  std::string device;
  std::string collectives;  // RankLoader::CollectivesName: equal on all ranks of a group
  Endpoint endpoint;
  int64_t memory_bytes = 0;
  std::optional<LoadedModel> loaded;
  int64_t latest_epoch = 0;  // that it was told to join, by any coordinator; 0: none
};

struct Heartbeat {
  int64_t step_count = 0;
  int64_t step_busy_us = 0;
};

struct LoadProgress {
  int64_t loaded_bytes = 0;
  int64_t total_bytes = 0;
};

struct LoadResult {
  absl::Status status;
  LoadedModel loaded;  // when OK
};

struct JoinResult {
  int64_t epoch = 0;
  absl::Status status;
};

struct StepFailed {
  int64_t epoch = 0;
  absl::Status status;
};

using WorkerMessage =
    std::variant<Hello, Heartbeat, LoadProgress, LoadResult, JoinResult, StepResult, StepFailed>;

// The worker may stay.
struct Welcome {
  int64_t worker_id = 0;
  int32_t heartbeat_interval_ms = 0;
  int32_t heartbeat_timeout_ms = 0;
};

struct JoinGroup {
  int64_t epoch = 0;
  std::string secret;           // 32 random bytes
  std::vector<Endpoint> ranks;  // rank = stage * tensor_parallel_size + tensor_rank
  GroupLimits limits;
  int32_t timeout_ms = 0;
};

struct LeaveGroup {
  int64_t epoch = 0;
  std::string reason;
};

using CoordinatorMessage =
    std::variant<Welcome, Heartbeat, LoadModel, JoinGroup, LeaveGroup, StepPlan>;

}  // namespace bora
