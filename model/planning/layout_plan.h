// Which layouts a number of devices can serve a model in, what each leaves for the KV cache and how
// fast it is predicted to be: for choosing tensor parallel size, pipeline parallel size and
// replicas before there is anything to measure. Pure. Times are those of model/planning/roofline.h.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/config.h"
#include "model/planning/roofline.h"

namespace bora {

inline constexpr int kMaxPlannedDevices = 1024;
// What the driver takes of a device's memory beside what is planned; the worker's own reserve.
inline constexpr int64_t kPlannedDriverBytes = int64_t{512} << 20;

// What there is. A plain value.
struct DeviceFleet {
  int n_devices = 1;                // at most kMaxPlannedDevices
  int devices_per_host = 1;         // divides n_devices
  int64_t memory_bytes = 0;         // of a device
  double memory_utilization = 0.9;  // (0, 1]: the part of it that a worker takes
  DeviceLimits device;
  double network_bytes_per_s = 50e9;  // of a host, which its devices share
};

// What is to be served. A plain value.
struct PlannedLoad {
  int64_t context_tokens = 0;  // of a request: the prompt to be computed, the depth of decoding
  int64_t n_sequences = 1;     // that decode at the same time, over all replicas
  int64_t max_chunk_tokens = 2048;  // --max-num-batched-tokens
};

// A group of tp_size * pp_size devices holds the model once.
struct Layout {
  int tp_size = 1;
  int pp_size = 1;
  int n_replicas = 1;

  int n_ranks() const { return tp_size * pp_size; }
  bool operator==(const Layout&) const = default;
};

// Of the rank that has the least room for keys and values. A plain value.
struct RankMemory {
  int stage = 0;
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;  // an estimate: activations, logits, rotary table, sampling
  int64_t kv_bytes = 0;         // the rest of what the worker takes; negative: it does not fit
  int64_t kv_token_bytes = 0;   // keys and values of a token on this rank
};

// A layout and what is predicted of it. A plain value.
struct LayoutPlan {
  Layout layout;
  // INVALID_ARGUMENT: the model cannot be divided so. RESOURCE_EXHAUSTED: not one request of
  // context_tokens fits. The message has the numbers; what follows is set as far as it is known.
  absl::Status fits;

  RankMemory memory;
  int64_t kv_tokens = 0;   // of a replica
  int64_t n_requests = 0;  // of context_tokens that a replica's KV cache holds

  int64_t n_sequences = 0;                // that a replica decodes at the same time under the load
  double decode_alone_us = 0;             // between the tokens of one sequence that is alone
  double decode_us = 0;                   // between the tokens of each of n_sequences
  double decode_communication_share = 0;  // [0, 1] of a micro-batch's way through the stages
  double prefill_us = 0;                  // of one prompt of context_tokens, alone
  double prefill_communication_share = 0;
  double replica_tokens_per_s = 0;  // decoded
  double tokens_per_s = 0;          // of all replicas
};

// What the ranks of a stage hold in memory, tensor rank 0 as the one that has most.
RankMemory PlanRankMemory(const ModelConfig& config, const RankShape& shape,
                          const DeviceFleet& fleet, const PlannedLoad& load);

// All layouts that use every device, with tensor groups inside a host, by ascending tensor and then
// pipeline parallel size. Replicas, and the stages of one, lie side by side over the hosts.
// Values outside of what the structs say are programmer errors (CHECK).
std::vector<LayoutPlan> PlanLayouts(const ModelConfig& config, const DeviceFleet& fleet,
                                    const PlannedLoad& load);

// kLatency: the shortest time between the tokens of a sequence that is alone. kThroughput: the most
// tokens per second of all replicas under the load.
enum class PlanObjective { kLatency, kThroughput };

struct PlanChoice {
  size_t best = 0;
  std::optional<size_t> next;  // the best of the others
};

// Of the plans that fit; nothing when none does. Of those within 1 % of the best it takes the one
// with the smallest group, which has the least to lose.
std::optional<PlanChoice> ChooseLayout(absl::Span<const LayoutPlan> plans, PlanObjective objective);

}  // namespace bora
