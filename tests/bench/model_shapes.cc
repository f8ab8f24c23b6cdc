#include "tests/bench/model_shapes.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace bora {
namespace {

struct NamedShape {
  const char* name;
  int64_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab_size;
};
constexpr NamedShape kShapes[] = {
    {"1b", 2048, 5632, 22, 32, 8, 64, 32000}, {"7b", 4096, 14336, 32, 32, 8, 128, 32000},
    {"tiny64", 128, 384, 32, 2, 1, 64, 512},  {"tiny", 128, 384, 32, 8, 2, 16, 512},
    {"demo", 128, 256, 32, 8, 2, 16, 1024},
};

}  // namespace

absl::StatusOr<ModelConfig> ConfigOfShape(const std::string& name) {
  for (const NamedShape& shape : kShapes) {
    if (name != shape.name) continue;
    ModelConfig config;
    config.architecture = "mistral";
    config.dim = shape.dim;
    config.hidden_dim = shape.hidden_dim;
    config.n_layers = shape.n_layers;
    config.n_heads = shape.n_heads;
    config.n_kv_heads = shape.n_kv_heads;
    config.head_dim = shape.head_dim;
    config.vocab_size = shape.vocab_size;
    config.max_position = 65536;
    config.rope_theta = 1e6;
    config.norm_eps = 1e-5;
    return config;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--shape=", name, " is not one of 1b, 7b, tiny64, tiny, demo"));
}

}  // namespace bora
