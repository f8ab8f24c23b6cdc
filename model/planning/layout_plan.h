// Plans before there is hardware to measure: in which layouts (tensor parallel size, pipeline
// parallel size, replicas) a number of devices can serve a model, how much memory each layout
// leaves for the KV cache, and how fast it should be. Pure functions. Times are predictions of
// model/planning/roofline.h.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/config.h"
#include "model/planning/roofline.h"

namespace bora {

// Relative difference of a figure below which two layouts count as equal.
inline constexpr double kSimilarLayouts = 0.01;

// Limit of DeviceFleet::n_devices.
inline constexpr int kMaxPlannedDevices = 1024;
// Memory of a device that its driver takes beside the planned amounts, in bytes; the worker
// reserves the same.
inline constexpr int64_t kPlannedDriverBytes = int64_t{512} << 20;

// The devices to plan for. A plain value.
struct DeviceFleet {
  int n_devices = 1;                // [1, kMaxPlannedDevices]
  int devices_per_host = 1;         // divides n_devices
  int64_t memory_bytes = 0;         // of one device
  double memory_utilization = 0.9;  // (0, 1]: the share of memory_bytes that a worker takes
  DeviceLimits device;
  double network_bytes_per_s = 50e9;  // of one host, shared by its devices
};

// The requests to plan for. A plain value.
struct PlannedLoad {
  // Tokens of a request: of its prompt, and of the context when it decodes; > 0.
  int64_t context_tokens = 0;
  int64_t n_sequences = 1;  // sequences that decode at the same time, over all replicas; > 0
  int64_t max_chunk_tokens = 2048;  // tokens of a step at most (--max-num-batched-tokens)
};

// A way to divide the devices. The tp_size * pp_size devices of a group hold the model once; each
// replica is one group. A plain value.
struct Layout {
  int tp_size = 1;
  int pp_size = 1;
  int n_replicas = 1;

  // Devices of one replica.
  int n_ranks() const { return tp_size * pp_size; }
  bool operator==(const Layout&) const = default;
};

// Memory of one rank, in bytes. A plain value.
struct RankMemory {
  int stage = 0;  // pipeline stage of the rank
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;  // estimate: activations, logits, rotary table, sampling
  int64_t kv_bytes = 0;  // rest of the worker's memory; negative: weights and workspace do not fit
  int64_t kv_token_bytes = 0;  // keys and values of one token on this rank
};

// A layout with its predictions. A plain value.
struct LayoutPlan {
  Layout layout;
  // OK if the layout can serve the load. INVALID_ARGUMENT if the model cannot be divided so;
  // RESOURCE_EXHAUSTED if not even one request of context_tokens fits. The message has the numbers.
  // Unless OK, the fields below are set only as far as they are known.
  absl::Status fits;

  // The rank with the least room for keys and values.
  RankMemory memory;
  int64_t kv_tokens = 0;   // tokens that the KV cache of a replica holds
  int64_t n_requests = 0;  // requests of context_tokens that the KV cache of a replica holds

  int64_t n_sequences = 0;                 // sequences that a replica decodes at the same time
  double decode_alone_us = 0;              // time between tokens of one sequence alone on a replica
  double decode_us = 0;                    // time between tokens of each of n_sequences
  double decode_communication_share = 0;   // share of links in a micro-batch's time, [0, 1]
  double prefill_us = 0;                   // time to compute one prompt of context_tokens, alone
  double prefill_communication_share = 0;  // share of links in that time, [0, 1]
  double replica_tokens_per_s = 0;         // decoded tokens per second of one replica
  double tokens_per_s = 0;                 // decoded tokens per second of all replicas
};

// Memory of tensor rank 0 of a stage, which has the most of its stage, on a device of `fleet`. Here
// load.n_sequences are the sequences of one replica.
RankMemory PlanRankMemory(const ModelConfig& config, const RankShape& shape,
                          const DeviceFleet& fleet, const PlannedLoad& load);

// All layouts that use every device and keep each tensor group inside a host, by ascending tp_size,
// then pp_size; layouts that do not fit are included. Stages of a replica, and replicas, are placed
// on consecutive devices. REQUIRES: all fields of `fleet` and `load` are in the ranges that their
// comments state (CHECK).
std::vector<LayoutPlan> PlanLayouts(const ModelConfig& config, const DeviceFleet& fleet,
                                    const PlannedLoad& load);

// kLatency: minimise decode_alone_us. kThroughput: maximise tokens_per_s.
enum class PlanObjective { kLatency, kThroughput };

// Indices into the plans given to ChooseLayout.
struct PlanChoice {
  size_t best = 0;
  std::optional<size_t> next;  // the best of the other layouts that fit
};

// Chooses among the plans that fit; nullopt if none fits. Of all plans within 1 % of the best one
// it takes the one with the smallest group, which loses the fewest devices when one of them
// fails.
std::optional<PlanChoice> ChooseLayout(absl::Span<const LayoutPlan> plans, PlanObjective objective);

}  // namespace bora
