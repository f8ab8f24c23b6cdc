// Lower bounds for the time of a step on given hardware, for planning before there is hardware to
// measure. Computes the coefficients of the formula in model/step/step_cost.h from bandwidths,
// arithmetic rates and the dimensions of the model. Not included: the start of each operation, its
// ramp-up, and hits in caches.
//
//   products    max(bytes of matrices / memory bandwidth, 2 flop * elements * tokens / flop rate)
//   contexts    bytes of keys and values / memory bandwidth
//               + 4 flop * heads * head_dim * pairs / flop rate
//               (a sum; a perfect kernel would need only the larger of the two)
//   all-reduce  two per layer among the tensor ranks of a stage; see AllReduceMicroseconds
//   hop         the residual, float [n_tokens, dim], from each stage to the next
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/planning/partition.h"
#include "model/step/step_cost.h"

namespace bora {

// Bytes of an element of the matrices and of the KV cache, which are planned as bf16.
inline constexpr int64_t kPlannedElementBytes = 2;

// A link on which a message of n bytes takes latency_us + n / bytes_per_s. A plain value.
struct LinkLimits {
  double latency_us = 0;
  double bytes_per_s = 0;

  double Microseconds(double n_bytes) const { return latency_us + n_bytes / bytes_per_s * 1e6; }
};

// Rates of one device and of its links to other devices of the host. A plain value. The defaults
// are those of an H200: memory copies, and bf16 products of 8192 x 8192 x 8192, as measured.
struct DeviceLimits {
  double memory_bytes_per_s = 4300e9;
  double flop_per_s = 790e12;
  // Bytes per second that a device moves in a collective. NCCL's rings among 8 H100 have a bus
  // bandwidth of 365 to 370 GB/s (NVIDIA/nccl issue 1455).
  double collective_bytes_per_s = 365e9;
};

// Latency of a message between two devices. Inside a host: 3 us over NVLink (NVIDIA/nccl issue
// 1487). Between hosts: half of an all-reduce of two hosts, which is a message there and one back
// and takes 31 to 34 us (NVIDIA/nccl-tests issue 214).
inline constexpr double kHostHopLatencyUs = 3;
inline constexpr double kNetworkHopLatencyUs = 16;

// Time of a collective of n_ranks on a few KiB, with plain NCCL in a graph. 6 us for 2 ranks
// (NVIDIA/nccl issue 1259) and 16.8 to 17.8 us for 8 (sgl-project/sglang pull request 22734);
// interpolated and extrapolated linearly in log2(n_ranks). REQUIRES: n_ranks > 1 (CHECK).
double CollectiveLatencyMicroseconds(int n_ranks);

// Time of a sum of a float vector of n_bytes over n_ranks, in a fixed order. The faster of two
// methods. One step: every rank gathers the vectors of all others, (n_ranks - 1) * n_bytes. Two
// steps: every rank receives its share of each vector, adds up, and the sums are gathered; 2 *
// (n_ranks - 1) / n_ranks * n_bytes at twice the latency. 0 for one rank.
double AllReduceMicroseconds(const DeviceLimits& limits, int n_ranks, double n_bytes);

// Time of a step on one rank. A plain value.
struct StageTime {
  double compute_us = 0;
  double communication_us = 0;  // collectives of the rank's tensor group

  double us() const { return compute_us + communication_us; }
};

// Predicts the steps of one rank. Immutable after construction.
class StageRoofline {
 public:
  // For the rank of the given shape, on a device with these limits.
  StageRoofline(const ModelConfig& config, const RankShape& shape, const DeviceLimits& limits);

  // The time of a step with this work that samples n_sampled tokens, >= 0. Only these rows pass
  // through the LM head.
  StageTime Predict(const StepWork& work, int64_t n_sampled) const;

  // The coefficients for the part of a step that depends on contexts.
  const ContextCost& context_cost() const { return context_cost_; }

 private:
  // Time of products of matrices with n_elements elements in all with n_rows vectors.
  double ProductMicroseconds(int64_t n_elements, int64_t n_rows) const;

  const DeviceLimits limits_;
  const int64_t dim_;
  const int64_t vocab_size_;
  const int tp_size_;
  const int64_t n_layers_;
  int64_t layer_elements_ = 0;  // of all matrices of the rank's layers
  int64_t head_elements_ = 0;   // of the LM head's rows on this rank; 0 without a head
  ContextCost context_cost_;
};

}  // namespace bora
