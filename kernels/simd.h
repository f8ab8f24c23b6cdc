// The inner loops of the CPU operations, compiled once for each instruction set. Every level does
// the same floating-point operations on the same 16 lanes in the same order, so results have the
// same bits at every level; they are one source (simd_kernels.inc) included three times.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/device.h"

namespace bora {

inline constexpr int64_t kSimdLanes = 16;

// An element of a weight or of the cache, for loops over either type.
inline float ElementToFloat(float value) { return value; }
inline float ElementToFloat(Bf16 value) { return ToFloat(value); }

// One product of packed rows of x with panels of a packed weight (packed_weight.h): y = x w^T.
struct MatMulTask {
  // The m rows in n_tiles tiles, tile i being rows [m * i / n_tiles, m * (i + 1) / n_tiles), each
  // packed as [steps, rows of the tile] of a float, a pair of bf16 (two floats where there is no
  // instruction for pairs) or 4 biased bytes. With int8, each group of steps follows [rows of the
  // tile] float scales.
  const float* x = nullptr;
  int64_t m = 0;
  int64_t n_tiles = 0;
  int64_t row_floats = 0;  // 4-byte elements that one row takes in x
  const char* w = nullptr;
  int64_t n_panels = 0;
  int64_t panel_bytes = 0;
  int64_t n_leaves = 1;
  int64_t leaf_cols = 0;
  int64_t group_cols = 0;  // int8
  float* y = nullptr;      // [m, y_stride]
  int64_t y_stride = 0;
  int64_t n_outputs = 0;  // columns of y to write; the last panel may have more rows
};

struct MatMulKernels {
  // Packs n_rows rows [n_rows, n_cols] as one tile of `task`, whose x is not looked at.
  void (*pack)(const float* rows, int64_t n_rows, int64_t n_cols, const MatMulTask& task,
               float* tile);
  void (*multiply)(const MatMulTask& task);
  int64_t step_floats;  // 4-byte elements that one row of x takes in a tile for each step
};

// Scores of n_queries queries against the 16 key slots that begin at `keys`.
struct ScoreTask {
  const float* const* queries = nullptr;  // [n_queries] each [head_dim]
  int64_t n_queries = 0;
  const void* keys = nullptr;  // [head_dim, key_stride] float or Bf16, 16 slots of it
  int64_t key_stride = 0;
  int64_t head_dim = 0;
  float* scores = nullptr;  // [n_queries, score_stride], 16 of each are overwritten
  int64_t score_stride = 0;
};

// sums[i, :] += sum over ascending slots s of probs[i, s] * values[s, :].
struct ValueTask {
  const float* probs = nullptr;  // [n_queries, prob_stride]
  int64_t prob_stride = 0;
  int64_t n_queries = 0;
  const void* values = nullptr;  // [n_slots, head_dim] float or Bf16
  int64_t n_slots = 0;
  int64_t head_dim = 0;
  float* sums = nullptr;  // [n_queries, sum_stride]
  int64_t sum_stride = 0;
};

struct SoftmaxSums {
  float max = 0;
  float sum = 0;
};

// Thread-safe: pure functions.
struct SimdKernels {
  MatMulKernels matmul[3];   // by WeightFormat
  int64_t matmul_tile_rows;  // the most rows of a tile
  void (*scores_f32)(const ScoreTask& task);
  void (*scores_bf16)(const ScoreTask& task);
  void (*values_f32)(const ValueTask& task);
  void (*values_bf16)(const ValueTask& task);
  // scores[i] = exp(scores[i] * scale - max) for i < n, max and sum over these; [n, RoundUp(n, 16))
  // must be writable and becomes 0.
  SoftmaxSums (*softmax)(float* scores, int64_t n, float scale);
  // out[i] = x[i] rounded to bf16, back in float.
  void (*round_to_bf16)(const float* x, int64_t n, float* out);
  // residual += delta (unless null); out = residual / sqrt(mean(residual^2) + eps) * gain; [dim].
  void (*add_rms_norm)(float* residual, const float* delta, const float* gain, int64_t dim,
                       float eps, float* out);
  // out[i] = silu(gate[i]) * up[i].
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
};

// The level must be available (SimdLevelAvailable).
const SimdKernels& GetSimdKernels(SimdLevel level);

}  // namespace bora
