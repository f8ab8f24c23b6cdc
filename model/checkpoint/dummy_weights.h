// Made-up weights for load tests and for tests without a checkpoint (--load-format dummy).
#pragma once

#include <cstdint>

#include "model/checkpoint/weights_source.h"

namespace bora {

// Every element is a pure function of (seed, tensor, row, column): all ways of splitting the model
// over ranks see the same weights. Matrices are uniform with standard deviation 1 / sqrt(fan_in),
// norms lie in [0.9, 1.1], so activations stay of order one through any number of layers.
// The fingerprint covers the config and the seed. One core makes about 0.4 billion bf16 or 0.7
// billion float elements a second: 14.5 GB of a 7B model take about 18 core-seconds.
class DummyWeights final : public WeightSource {
 public:
  // `config` must have passed Validate() (CHECK).
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
