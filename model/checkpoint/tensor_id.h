// Names and shapes of the weights of one decoder, independent of the names that a checkpoint uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace bora {

// The kinds of weights. Matrices are stored [out, in], as in both checkpoint layouts: y = W x.
enum class TensorKind : uint8_t {
  kTokEmbeddings,  // [vocab_size, dim]
  kAttentionNorm,  // [dim]
  kWq,             // [n_heads * head_dim, dim], half-rotation rotary layout
  kWk,             // [n_kv_heads * head_dim, dim], half-rotation rotary layout
  kWv,             // [n_kv_heads * head_dim, dim]
  kWo,             // [dim, n_heads * head_dim]
  kFfnNorm,        // [dim]
  kW1,             // [hidden_dim, dim], gate
  kW2,             // [dim, hidden_dim], down
  kW3,             // [hidden_dim, dim], up
  kNorm,           // [dim]
  kOutput,         // [vocab_size, dim]
};

// The layer of a tensor that belongs to no layer.
inline constexpr int64_t kNoLayer = -1;

// Identifies one weight. `layer` is in [0, n_layers) for kinds inside a layer, kNoLayer for the
// others. A plain value.
struct TensorId {
  TensorKind kind = TensorKind::kTokEmbeddings;
  int64_t layer = kNoLayer;
  bool operator==(const TensorId&) const = default;
};

// Shape of a weight. A vector of n elements counts as one row of n columns.
struct TensorShape {
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  bool is_vector = false;
  bool operator==(const TensorShape&) const = default;
};

// Whether every layer has a tensor of this kind.
bool IsLayerTensor(TensorKind kind);

// The canonical name, which all messages use: "layers.3.wq", "tok_embeddings" and so on.
std::string TensorName(TensorId id);

// The shape that the tensor must have in a model of this config.
TensorShape ShapeOf(const ModelConfig& config, TensorId id);

// Every weight that a checkpoint of this config must hold, in the order of the forward pass. A tied
// head is not listed, since reading kOutput then reads kTokEmbeddings.
std::vector<TensorId> AllTensors(const ModelConfig& config);

}  // namespace bora
