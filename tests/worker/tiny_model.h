// A decoder small enough to run in microseconds, with grouped heads, and a vocabulary that no
// tensor-parallel size divides.
#pragma once

#include "model/config.h"
#include "model/step/step.h"
#include "worker/weights/rank_weights.h"

namespace bora {

inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = 64;
  config.hidden_dim = 96;
  config.n_layers = 4;
  config.n_heads = 8;
  config.n_kv_heads = 4;
  config.head_dim = 16;
  config.vocab_size = 257;
  config.max_position = 1024;
  config.rope_theta = 10000;
  config.norm_eps = 1e-5;
  return config;
}

// block_size 4 instead of 16: more blocks for the same tokens.
inline GroupLimits TinyLimits() {
  return {.max_num_seqs = 6,
          .max_num_batched_tokens = 96,
          .max_model_len = 160,
          .block_size = 4,
          .n_blocks = 240,
          .vocab_size = 257};
}

// int8 weights go with a bf16 cache.
inline Precision PrecisionOf(WeightFormat format) {
  if (format == WeightFormat::kF16) return DType::kF16;
  return Precision(format == WeightFormat::kF32 ? DType::kF32 : DType::kBf16, format);
}

inline const char* FormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "F32";
    case WeightFormat::kBf16:
      return "Bf16";
    case WeightFormat::kInt8:
      return "Int8";
    case WeightFormat::kF16:
      return "F16";
  }
  return "unknown";
}

}  // namespace bora
