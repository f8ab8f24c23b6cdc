// The inner loops of the CPU operations, compiled once for each instruction set. Every level does
// the same floating-point operations on the same 16 lanes in the same order, so results have the
// same bits at every level; they are one source (simd_kernels.inc) included once for each.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "base/int_math.h"
#include "kernels/cpu/simd/simd_choice.h"
#include "kernels/packed_weight.h"

namespace bora {

inline constexpr int64_t kSimdLanes = 16;

// Rows (of activations, of queries) whose sums are held in registers together. The loops over them
// are unrolled, which takes a compiler minutes under sanitizers; results do not depend on it.
#ifdef BORA_SMALL_TILES
inline constexpr int64_t kMaxTileRows = 3;
#else
inline constexpr int64_t kMaxTileRows = 12;
#endif

// One product of packed rows of x with panels of a packed weight (packed_weight.h): y = x w^T.
struct MatMulTask {
  // The m rows in n_tiles tiles, tile i being rows [m * i / n_tiles, m * (i + 1) / n_tiles), each
  // packed as [steps, rows of the tile] of a float, a pair of bf16 (two floats where there is no
  // instruction for pairs and where weights are float16) or 4 biased bytes. With int8, each group
  // of steps follows [rows of the tile] float scales.
  const float* x = nullptr;
  int64_t m = 0;
  int64_t n_tiles = 0;
  int64_t row_floats = 0;  // 4-byte elements that one row takes in x
  const char* w = nullptr;
  int64_t n_panels = 0;
  int64_t n_panels_ahead = 0;  // from w to the end of the matrix: what may be fetched early
  int64_t panel_bytes = 0;
  int64_t n_leaves = 1;
  int64_t leaf_cols = 0;
  int64_t group_cols = 0;  // int8
  // [WideFloats] to turn panels into floats in, for kernels that widen; null: in the inner loop.
  float* wide = nullptr;
  float* y = nullptr;  // [m, y_stride]
  int64_t y_stride = 0;
  int64_t n_outputs = 0;  // columns of y to write; the last panel may have more rows
};

// Leaves of a panel that are turned into floats together: as many as 256 KiB hold, at least one.
inline constexpr int64_t kWideBytes = 256 << 10;
inline constexpr int64_t kMaxWideLeafBytes = 512 << 10;
constexpr int64_t WideLeafBytes(int64_t leaf_cols) { return leaf_cols * kPanelRows * 4; }
constexpr int64_t WideLeaves(int64_t n_leaves, int64_t leaf_cols) {
  const int64_t n = kWideBytes / WideLeafBytes(leaf_cols);
  return n < 1 ? 1 : n < n_leaves ? n : n_leaves;
}
// What a tile keeps of its leaves' sums meanwhile.
inline constexpr int64_t kWideStackFloats = 3 * kMaxTileRows * kPanelRows;
// MatMulTask::wide for n_tiles tiles of x; 0 when a leaf is too long to be widened as a whole.
inline int64_t WideFloats(const PackedWeight& w, int64_t n_tiles) {
  const int64_t leaf_bytes = WideLeafBytes(w.leaf_cols());
  if (leaf_bytes > kMaxWideLeafBytes) return 0;
  return RoundUp(
      WideLeaves(w.n_leaves, w.leaf_cols()) * leaf_bytes / 4 + n_tiles * kWideStackFloats,
      kSimdLanes);
}

struct MatMulKernels {
  // Packs n_rows rows [n_rows, n_cols] as one tile of `task`, whose x is not looked at.
  void (*pack)(const float* rows, int64_t n_rows, int64_t n_cols, const MatMulTask& task,
               float* tile);
  void (*multiply)(const MatMulTask& task);
  int64_t step_floats;  // 4-byte elements that one row of x takes in a tile for each step
  bool widens;          // whether it looks at MatMulTask::wide
};

// Attention takes the positions of a split in runs: up to 16 neighbours inside a block, whose keys
// are one vector in each step. A step is 4 bytes: a float, or a pair of bf16 (neighbouring
// dimensions of queries and keys, neighbouring positions of weights and values). Of queries and
// weights it is AttentionKernels::step_floats floats: a pair may be two.

// The most queries that the kernels take at a time.
inline constexpr int64_t kAttentionQueries = kMaxTileRows;
// Floats between queries and between rows of scores: 17 and 35 cache lines, odd, so that equal
// places of many rows do not meet in the same set of the cache.
inline constexpr int64_t kQueryFloats = 256 + 16;
inline constexpr int64_t kScoreFloats = 512 + 48;
// The kernels fetch into the cache what they will read up to this many runs later. Arrays of runs
// have so many (valid) pointers more, and 2 more than that, as keys may be taken two runs at a
// time.
inline constexpr int64_t kRunsAhead = 4;
inline constexpr int64_t kExtraRuns = kRunsAhead + 2;

// Neighbouring KV heads whose runs lie behind one another.
struct HeadsOfRun {
  int64_t n = 1;
  int64_t bytes = 0;  // from a head's run to the next head's
};

// scores[i, p] = queries[i, :] . keys[p, :] for the positions p of all runs: n_queries queries for
// each head, one head after the other.
struct ScoreTask {
  const float* queries = nullptr;  // [heads.n, n_queries, kQueryFloats] steps
  int64_t n_queries = 0;           // of a head
  HeadsOfRun heads;
  const char* const* keys = nullptr;  // [n_runs + kExtraRuns] to [n_steps, step_bytes]
  int64_t n_runs = 0;
  int64_t run_positions = 0;  // 1..16
  int64_t n_steps = 0;        // of a key: its bytes / 4
  int64_t step_bytes = 0;
  // [heads.n, n_queries, kScoreFloats], which are overwritten beyond the last run.
  float* scores = nullptr;
};

// sums[i, :] = sum over ascending steps of probs[i, :] * values.
struct ValueTask {
  const float* probs = nullptr;  // [heads.n, n_queries, kScoreFloats] steps
  int64_t n_queries = 0;         // of a head
  HeadsOfRun heads;
  const char* const* values = nullptr;  // [runs + kExtraRuns] to rows of head_dim steps
  int64_t run_positions = 0;
  int64_t n_positions = 0;  // positions beyond are not looked at
  int64_t head_dim = 0;
  float* sums = nullptr;   // [heads.n, n_queries, sum_stride]
  int64_t sum_stride = 0;  // RoundUp(head_dim, 16) or more, whose padding is overwritten
};

// Of one query and some positions: the greatest score in powers of two, and the sum of
// 2^(score - max).
struct SoftmaxSums {
  float max = 0;
  float sum = 0;
};

// Takes the results of one split into the running results of a block of queries: both are scaled to
// the common maximum.
struct MergeTask {
  // Queries [first, n_queries) take part; the split_max of the others is -infinity, their
  // split_sum 0.
  int64_t first = 0;
  int64_t n_queries = 0;
  int64_t head_dim = 0;
  float* const* out = nullptr;          // [n_queries] to the running sum of values, [head_dim]
  float* max = nullptr;                 // [16]
  float* sum = nullptr;                 // [16]
  const float* split_values = nullptr;  // [n_queries, split_stride]
  int64_t split_stride = 0;
  const float* split_max = nullptr;  // [16]
  const float* split_sum = nullptr;  // [16]
};

struct AttentionKernels {
  // One query [head_dim] as steps; overwrites up to RoundUp(head_dim, 32) floats.
  void (*pack_query)(const float* query, int64_t head_dim, float* to);
  void (*scores)(const ScoreTask& task);
  // Replaces scores[i] by its weight 2^(scores[i] * scale - max) for i < n, max being the greatest
  // scores[i] * scale, and 0 for n <= i < n_padded, a multiple of 32. Returns max and the sum of
  // the weights. Under bf16 the weights are rounded before the sum; they are stored as steps,
  // from the beginning of the row.
  SoftmaxSums (*softmax)(float* scores, int64_t n, int64_t n_padded, float scale);
  void (*values)(const ValueTask& task);
  int64_t step_floats;  // of a step of queries and weights
};

// A row of logits that a token is drawn from (kernels/draw.h).
struct DrawTask {
  const float* logits = nullptr;  // [n_tokens]
  uint64_t seed = 0;
  int32_t position = 0;
  float temperature = 1;  // a normal number
  float least = 0;        // LeastToBeat of the best score so far
  float least_logit = 0;  // tokens below are not to be drawn
};

struct DrawCandidate {
  int32_t token_id = -1;
  uint32_t word = 0;
};

inline constexpr int64_t kDrawTokensAtOnce = 64;

struct LogitScan {
  bool all_finite = false;
  // The greatest logit and the lowest id that has it, if all are finite.
  float max = 0;
  int64_t argmax = 0;
};

// Thread-safe: pure functions.
struct SimdKernels {
  MatMulKernels matmul[4];        // by WeightFormat
  int64_t matmul_tile_rows;       // the most rows of a tile
  AttentionKernels attention[2];  // by DType of the cache
  void (*merge_split)(const MergeTask& task);
  // out[i] = row[i] / divisor; out may be row.
  void (*divide_row)(const float* row, int64_t n, float divisor, float* out);
  // out[i] = x[i] rounded to bf16.
  void (*round_to_bf16)(const float* x, int64_t n, Bf16* out);
  // Each of n_heads heads [head_dim], half = head_dim / 2, in place:
  // x[i], x[i + half] = x[i] cos[i] - x[i + half] sin[i], x[i + half] cos[i] + x[i] sin[i].
  void (*rotate)(float* heads, int64_t n_heads, int64_t head_dim, const float* cosines,
                 const float* sines);
  // residual += delta (unless null); out = residual / sqrt(mean(residual^2) + eps) * gain; [dim].
  void (*add_rms_norm)(float* residual, const float* delta, const float* gain, int64_t dim,
                       float eps, float* out);
  // out[i] = silu(gate[i]) * up[i].
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  LogitScan (*scan_logits)(const float* logits, int64_t n);  // n > 0
  // out[i] = e^((logits[i] - max) / temperature), by Exp of exact_math.h.
  void (*exp_logits)(const float* logits, int64_t n, double max, double temperature, double* out);
  // The tokens of [begin, end), ascending, that may beat the best score, with their words: those
  // with logit >= least_logit and logit + temperature * GumbelBound(word) >= least. Returns how
  // many; `out` has room for end - begin. begin is a multiple of kDrawTokensAtOnce.
  int64_t (*draw_candidates)(const DrawTask& task, int64_t begin, int64_t end, DrawCandidate* out);
  // weights[i] = IntegerWeight(WeightOf(logits[i], best_logit, temperature)), no logit being above
  // best_logit. Subnormal floats count as zero as the thread is set.
  void (*weigh_logits)(const float* logits, int64_t n, double best_logit, double temperature,
                       uint64_t* weights);
  // How many logits are greater than logits[id], or equal and before it.
  int64_t (*count_before)(const float* logits, int64_t n, int64_t id);
};

// The level must be available (SimdLevelAvailable).
const SimdKernels& GetSimdKernels(SimdLevel level);

}  // namespace bora
