// What the float64 reference needs to know of a model that ranks serve.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/bf16.h"
#include "base/check.h"
#include "model/checkpoint/tensor_id.h"
#include "model/checkpoint/weights_source.h"
#include "model/config.h"
#include "tests/reference/reference.h"
#include "worker/weights/rank_weights.h"

namespace bora {

inline reference::ModelConfig ReferenceConfig(const ModelConfig& config) {
  return {.dim = config.dim,
          .hidden_dim = config.hidden_dim,
          .n_layers = config.n_layers,
          .n_heads = config.n_heads,
          .n_kv_heads = config.n_kv_heads,
          .head_dim = config.head_dim,
          .vocab_size = config.vocab_size,
          .norm_eps = config.norm_eps,
          .rope_theta = config.rope_theta};
}

// The weights as the engine holds them: matrices rounded to its dtype, gains in float.
inline reference::Weights ReferenceWeights(const WeightSource& source, DType dtype) {
  reference::Weights weights;
  for (const TensorId id : AllTensors(source.config())) {
    const TensorShape shape = ShapeOf(source.config(), id);
    reference::Vector& values = weights[TensorName(id)];
    if (dtype == DType::kF32 || shape.is_vector) {
      std::vector<float> data(shape.n_rows * shape.n_cols);
      CHECK_OK(source.ReadSlice(id, WholeTensor(shape), absl::MakeSpan(data)));
      values.assign(data.begin(), data.end());
    } else {
      std::vector<Bf16> data(shape.n_rows * shape.n_cols);
      CHECK_OK(source.ReadSlice(id, WholeTensor(shape), absl::MakeSpan(data)));
      for (const Bf16 value : data) values.push_back(ToFloat(value));
    }
  }
  return weights;
}

}  // namespace bora
