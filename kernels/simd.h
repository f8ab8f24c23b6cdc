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

// y[i, j] = x[i, :] . w[j, :] for one block of rows of x and one range of rows of w.
struct MatMulTask {
  const float* x = nullptr;  // [m, x_stride], x_stride = RoundUp(n_cols, 16), zeros in the padding
  int64_t x_stride = 0;
  int64_t m = 0;
  const void* w = nullptr;  // [n_rows, n_cols] float or Bf16
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  float* y = nullptr;  // [m, y_stride]
  int64_t y_stride = 0;
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
  void (*matmul_f32)(const MatMulTask& task);
  void (*matmul_bf16)(const MatMulTask& task);
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
