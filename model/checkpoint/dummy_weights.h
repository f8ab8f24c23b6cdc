// Generated weights for load tests and for tests without a checkpoint (--load-format dummy).
#pragma once

#include <cstdint>

#include "model/checkpoint/weights_source.h"

namespace bora {

// Weights computed from a seed. An element is a pure function of (seed, tensor, row, column), so
// every division of the model over ranks sees the same weights. Elements of matrices are uniform
// with mean 0 and standard deviation 1 / sqrt(fan_in); elements of norms lie in [0.9, 1.1]; so
// activations stay of order one through any number of layers. The fingerprint covers config and
// seed. One core makes about 0.4 billion bf16 or 0.7 billion float elements per second: the 14.5 GB
// of a 7B model take about 18 core-seconds. Immutable after construction.
class DummyWeights final : public WeightSource {
 public:
  // REQUIRES: Validate(config) is OK (CHECK).
  DummyWeights(const ModelConfig& config, uint64_t seed);

  const ModelConfig& config() const override { return config_; }
  Fingerprint fingerprint() const override;

 private:
  // Never fails.
  absl::Status Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                    DigestSum* digest) const override;
  template <typename T>
  void Make(TensorId id, const TensorSlice& slice, absl::Span<T> dst) const;

  ModelConfig config_;
  uint64_t seed_;
};

}  // namespace bora
