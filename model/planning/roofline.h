// What a step takes at least on given hardware: the coefficients of the formula of
// model/step/step_cost.h from bandwidths, arithmetic and the sizes of a model, for planning before
// there is anything to measure. Predictions are floors: nothing of an operation's start, of its
// ramp or of a cache's help is in them.
//
//   products    max(bytes of matrices / memory bandwidth, 2 flop * elements * tokens / arithmetic)
//   contexts    bytes of keys and values / memory bandwidth + 4 flop * heads * head_dim * pairs /
//               arithmetic: their sum, where a perfect kernel would take the larger
//   all-reduce  two a layer among the tensor ranks of a stage; see AllReduceMicroseconds
//   hop         the float residual [n_tokens, dim] from stage to stage
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/planning/partition.h"
#include "model/step/step_cost.h"

namespace bora {

// Bytes of an element of matrices and of the KV cache: bf16.
inline constexpr int64_t kPlannedElementBytes = 2;

// A message of n bytes takes latency_us + n / bytes_per_s. A plain value.
struct LinkLimits {
  double latency_us = 0;
  double bytes_per_s = 0;

  double Microseconds(double n_bytes) const { return latency_us + n_bytes / bytes_per_s * 1e6; }
};

// Of one device and the links to those on its host. A plain value; the rates are of an H200: copies
// in its memory and bf16 products of 8192 x 8192 x 8192 as measured on one.
struct DeviceLimits {
  double memory_bytes_per_s = 4300e9;
  double flop_per_s = 790e12;
  // What a device moves in a collective: NCCL's rings among 8 H100 have a bus bandwidth of 365 to
  // 370 GB/s (NVIDIA/nccl issue 1455).
  double collective_bytes_per_s = 365e9;
};

// Of a message from device to device: 3 us over NVLink (NVIDIA/nccl issue 1487). Across hosts half
// of an all-reduce between two of them, there and back, which takes 31 to 34 us (NVIDIA/nccl-tests
// issue 214).
inline constexpr double kHostHopLatencyUs = 3;
inline constexpr double kNetworkHopLatencyUs = 16;

// A collective of n_ranks > 1 on a few KiB: 6 us for 2 ranks (NVIDIA/nccl issue 1259) and 16.8 to
// 17.8 for 8 (sgl-project/sglang pull request 22734), plain NCCL in a graph; in between, and
// beyond, by the logarithm.
double CollectiveLatencyMicroseconds(int n_ranks);

// Sum of a float vector of n_bytes over n_ranks in a fixed order. Either every rank gathers the
// partial vectors of all, (n_ranks - 1) * n_bytes, or each gets its share of all of them, adds up
// and gathers the sums: 2 * (n_ranks - 1) / n_ranks * n_bytes at twice the latency. The faster one;
// 0 for one rank.
double AllReduceMicroseconds(const DeviceLimits& limits, int n_ranks, double n_bytes);

// What a step takes on one rank. A plain value.
struct StageTime {
  double compute_us = 0;
  double communication_us = 0;  // collectives of its tensor group

  double us() const { return compute_us + communication_us; }
};

// Immutable after construction.
class StageRoofline {
 public:
  StageRoofline(const ModelConfig& config, const RankShape& shape, const DeviceLimits& limits);

  // A step that samples n_sampled of its tokens; only they pass through the LM head.
  StageTime Predict(const StepWork& work, int64_t n_sampled) const;

  const ContextCost& context_cost() const { return context_cost_; }

 private:
  double ProductMicroseconds(int64_t n_elements, int64_t n_rows) const;

  const DeviceLimits limits_;
  const int64_t dim_;
  const int64_t vocab_size_;
  const int tp_size_;
  const int64_t n_layers_;
  int64_t layer_elements_ = 0;  // of all layers' matrices on this rank
  int64_t head_elements_ = 0;
  ContextCost context_cost_;
};

}  // namespace bora
