// The messages between coordinator and workers as plain data. proto/bora/worker/v1alpha1 has the
// same messages for the wire and describes their order. All types here are plain values.
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

// Tells a worker which weights to load. Equal values mean that a rank holds the same weights in the
// same memory: a worker that holds them already answers at once.
struct LoadModel {
  std::string model_path;      // directory of the checkpoint; for dummy weights of its config
  bool dummy_weights = false;  // random weights instead of the checkpoint's
  uint64_t dummy_seed = 0;     // of the random weights
  // Names of base/number_formats.h, for example "bfloat16" for dtype. quantization is the format of
  // the matrices, for example "int8"; if it is empty, they have the format that dtype implies.
  std::string dtype;
  std::string quantization;
  int32_t tensor_parallel_size = 1;
  std::vector<int32_t> layers_per_stage;  // [n_stages]; their sum is n_layers of the model
  int32_t stage = 0;                      // of this worker, [0, n_stages)
  int32_t tensor_rank = 0;                // of this worker, [0, tensor_parallel_size)
  // Upper limits of the group's plans (GroupLimits). A rank computes from them how much working
  // memory it needs beside the weights.
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;

  bool operator==(const LoadModel&) const = default;
};

// Describes the weights that a worker holds.
struct LoadedModel {
  LoadModel load;
  // WeightSource::fingerprint in hexadecimal. For a checkpoint it covers the layout, the config,
  // the names, types and shapes of the tensors, samples of their bytes, and tokenizer.model.
  std::string fingerprint;
  int64_t weight_bytes = 0;    // of memory that the weights take on this rank
  int64_t kv_block_bytes = 0;  // of one KV block on this rank
  int64_t max_blocks = 0;      // KV blocks that fit beside the weights
  // Whether max_blocks KV blocks fit into memory of a device that is reserved for them. The
  // coordinator then uses all of them unless it was told a size.
  bool kv_memory_is_reserved = false;
  WeightDigests digests;  // of the bytes that this rank has read; 0 for dummy weights

  bool operator==(const LoadedModel&) const = default;
};

// A worker's first message after both sides have proved the credential
// (model/protocol/worker_auth.h).
struct Hello {
  std::string build_id;      // version and commit of the build; must equal the coordinator's
  std::string host;          // host name, for people
  int32_t pid = 0;           // process id on its host
  std::string device;        // RankLoader::DeviceName, for people
  std::string collectives;   // RankLoader::CollectivesName: equal on all ranks of a group
  Endpoint endpoint;         // where other ranks reach this one
  int64_t memory_bytes = 0;  // that weights and KV cache may take
  std::optional<LoadedModel> loaded;  // weights of an earlier coordinator that are still loaded
  // The greatest epoch that any coordinator has told this worker to join; 0: none. The next epoch
  // must be greater.
  int64_t latest_epoch = 0;
};

// A sign of life, in both directions. The coordinator sends it with zeros.
struct Heartbeat {
  int64_t step_count = 0;    // steps that the rank thread has finished in this epoch
  int64_t step_busy_us = 0;  // microseconds that the step in progress has taken; 0: no step
};

// How far the loading of weights is.
struct LoadProgress {
  int64_t loaded_bytes = 0;
  int64_t total_bytes = 0;
};

// The end of loading.
struct LoadResult {
  absl::Status status;
  LoadedModel loaded;  // valid if status is OK
};

// The end of an attempt to join an epoch.
struct JoinResult {
  int64_t epoch = 0;
  absl::Status status;
};

// The rank can execute no more steps of the epoch.
struct StepFailed {
  int64_t epoch = 0;
  absl::Status status;
};

using WorkerMessage =
    std::variant<Hello, Heartbeat, LoadProgress, LoadResult, JoinResult, StepResult, StepFailed>;

// Accepts a worker after its Hello.
struct Welcome {
  int64_t worker_id = 0;              // unique among the workers of this coordinator, never reused
  int32_t heartbeat_interval_ms = 0;  // both sides send a heartbeat at least this often
  int32_t heartbeat_timeout_ms = 0;   // a side that is silent for this long counts as gone
};

// Tells a worker to connect to the other ranks of a new group and to be ready for plans.
struct JoinGroup {
  int64_t epoch = 0;  // greater than every earlier epoch
  // 32 random bytes with which ranks prove to each other that they belong to the epoch.
  std::string secret;
  std::vector<Endpoint> ranks;  // by rank: stage * tensor_parallel_size + tensor_rank
  GroupLimits limits;           // of every plan of the epoch
  int32_t timeout_ms = 0;       // within which joining must be done
};

// Tells a worker that the epoch has ended. Its weights stay loaded.
struct LeaveGroup {
  int64_t epoch = 0;
  std::string reason;  // for the log
};

using CoordinatorMessage =
    std::variant<Welcome, Heartbeat, LoadModel, JoinGroup, LeaveGroup, StepPlan>;

}  // namespace bora
