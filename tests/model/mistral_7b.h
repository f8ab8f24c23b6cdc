// The config of Mistral 7B v0.2, for tests that check numbers known from elsewhere.
#pragma once

#include "model/config.h"

namespace bora {

inline ModelConfig Mistral7B() {
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = 4096;
  config.hidden_dim = 14336;
  config.n_layers = 32;
  config.n_heads = 32;
  config.n_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 32000;
  config.max_position = 32768;
  config.rope_theta = 1e6;
  config.norm_eps = 1e-5;
  return config;
}

}  // namespace bora
