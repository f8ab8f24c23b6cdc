// The inner loops of the CPU operations, compiled once for each instruction set (level). Every
// level does the same floating-point operations on the same 16 lanes in the same order, so the
// results have the same bits at every level. All levels come from one source, simd_kernels.inc,
// which simd.cc includes once for each.
//
// These are raw loops without checks: the operations in kernels/cpu/ validate shapes and divide the
// work. Every function may be called by any thread.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "base/int_math.h"
#include "kernels/cpu/simd/simd_choice.h"
#include "kernels/packed_weight.h"

namespace bora {

// Floats of a vector at every level; a level with narrower registers uses several.
inline constexpr int64_t kSimdLanes = 16;

// Most rows (of activations or queries) whose sums are held in registers together. The loops over
// them are unrolled, which takes a compiler minutes with sanitizers; builds with sanitizers define
// BORA_SMALL_TILES. Results do not depend on it.
#ifdef BORA_SMALL_TILES
inline constexpr int64_t kMaxTileRows = 3;
#else
inline constexpr int64_t kMaxTileRows = 12;
#endif

// The arguments of one product of packed rows of x with panels of a packed weight
// (kernels/packed_weight.h): y = x w^T.
struct MatMulTask {
  // The m rows of x, in n_tiles tiles. Tile i holds rows [m * i / n_tiles, m * (i + 1) / n_tiles),
  // packed as [steps, rows of the tile] of one element each: a float, a pair of bf16, or 4 biased
  // bytes (int8). A pair of columns takes two floats instead if the weights are float16 or the
  // level has no instruction for pairs of bf16. With int8, [rows of the tile] float scales precede
  // each group of steps.
  const float* x = nullptr;
  int64_t m = 0;
  int64_t n_tiles = 0;      // of x
  int64_t row_floats = 0;   // 4-byte elements that one row takes in x
  const char* w = nullptr;  // the first panel
  int64_t n_panels = 0;     // to multiply, from w on
  // Panels from w to the end of the matrix, which the loops may fetch into the cache early.
  int64_t n_panels_ahead = 0;
  int64_t panel_bytes = 0;
  int64_t n_leaves = 1;
  int64_t leaf_cols = 0;
  int64_t group_cols = 0;  // int8: columns that share a scale
  // [WideFloats] working memory for kernels that widen: panels are turned into floats there once
  // for all tiles. Null: weights are converted in the inner loop.
  float* wide = nullptr;
  float* y = nullptr;  // [m, y_stride]
  int64_t y_stride = 0;
  int64_t n_outputs = 0;  // columns of y to write; the last panel may have more rows than that
};

// Widening turns a piece of a panel into floats at a time: as many whole leaves as kWideBytes hold,
// at least one. A leaf of more than kMaxWideLeafBytes as floats is not widened.
inline constexpr int64_t kWideBytes = 256 << 10;
inline constexpr int64_t kMaxWideLeafBytes = 512 << 10;

// Bytes of one leaf of a panel as floats.
constexpr int64_t WideLeafBytes(int64_t leaf_cols) { return leaf_cols * kPanelRows * 4; }

// Leaves of one piece, in [1, n_leaves].
constexpr int64_t WideLeaves(int64_t n_leaves, int64_t leaf_cols) {
  const int64_t n = kWideBytes / WideLeafBytes(leaf_cols);
  return n < 1 ? 1 : n < n_leaves ? n : n_leaves;
}
// Floats in which a tile keeps the sums of finished leaves between two pieces.
inline constexpr int64_t kWideStackFloats = 3 * kMaxTileRows * kPanelRows;
// Floats of MatMulTask::wide for n_tiles tiles of x; 0 if a leaf is too long to be widened.
inline int64_t WideFloats(const PackedWeight& w, int64_t n_tiles) {
  const int64_t leaf_bytes = WideLeafBytes(w.leaf_cols());
  if (leaf_bytes > kMaxWideLeafBytes) return 0;
  return RoundUp(
      WideLeaves(w.n_leaves, w.leaf_cols()) * leaf_bytes / 4 + n_tiles * kWideStackFloats,
      kSimdLanes);
}

// The loops for one weight format.
struct MatMulKernels {
  // Packs rows, [n_rows, n_cols], as one tile of `task`; task.x is not read.
  void (*pack)(const float* rows, int64_t n_rows, int64_t n_cols, const MatMulTask& task,
               float* tile);
  // Computes the product and writes n_outputs columns of y.
  void (*multiply)(const MatMulTask& task);
  int64_t step_floats;  // 4-byte elements that a step of one row of x takes
  bool widens;          // whether multiply uses MatMulTask::wide
};

// Attention takes the positions of a split in runs: up to 16 neighbouring positions of one block,
// whose keys form one vector in each step. A step is 4 bytes of each: a float or a pair of bf16
// (neighbouring dimensions of queries and keys; neighbouring positions of weights and values). A
// step of queries or weights takes AttentionKernels::step_floats floats, because a pair may be
// stored as two floats.

// Most queries of one KV head that the kernels take at a time.
inline constexpr int64_t kAttentionQueries = kMaxTileRows;
// Floats from one query to the next, and from one row of scores to the next: 17 and 35 cache lines.
// The numbers are odd so that the same places of many rows do not fall into the same set of the
// cache.
inline constexpr int64_t kQueryFloats = 256 + 16;
inline constexpr int64_t kScoreFloats = 512 + 48;
// The kernels prefetch memory that they will read up to kRunsAhead runs later. Arrays of runs have
// kExtraRuns more pointers than runs: kRunsAhead, and 2 because keys may be taken two runs at a
// time. The extra pointers must be valid addresses of runs.
inline constexpr int64_t kRunsAhead = 4;
inline constexpr int64_t kExtraRuns = kRunsAhead + 2;

// Neighbouring KV heads of one block: their runs lie at a constant distance.
struct HeadsOfRun {
  int64_t n = 1;
  int64_t bytes = 0;  // from one head's run to the next head's
};

// The arguments of a score computation: scores[i, p] = queries[i, :] . keys[p, :] for the positions
// p of all runs. Each of the heads has n_queries queries; heads follow one another.
struct ScoreTask {
  const float* queries = nullptr;  // [heads.n, n_queries, kQueryFloats] steps
  int64_t n_queries = 0;           // of a head
  HeadsOfRun heads;
  const char* const* keys = nullptr;  // [n_runs + kExtraRuns] pointers to [n_steps, step_bytes]
  int64_t n_runs = 0;
  int64_t run_positions = 0;  // 1..16
  int64_t n_steps = 0;        // of a key: its bytes / 4
  int64_t step_bytes = 0;     // bytes from one step of a run's keys to the next
  // [heads.n, n_queries, kScoreFloats]; also overwritten beyond the last run.
  float* scores = nullptr;
};

// The arguments of a sum of weighted values: sums[i, :] = sum over ascending steps of probs[i,
// step] * values[step, :].
struct ValueTask {
  const float* probs = nullptr;  // [heads.n, n_queries, kScoreFloats] steps
  int64_t n_queries = 0;         // of a head
  HeadsOfRun heads;
  const char* const* values = nullptr;  // [runs + kExtraRuns] pointers to rows of head_dim steps
  int64_t run_positions = 0;
  int64_t n_positions = 0;  // positions beyond are not read
  int64_t head_dim = 0;
  float* sums = nullptr;   // [heads.n, n_queries, sum_stride]
  int64_t sum_stride = 0;  // RoundUp(head_dim, 16) or more; the padding is overwritten
};

// What softmax returns for one query and some positions: the greatest scaled score, and the sum of
// 2^(scaled score - max).
struct SoftmaxSums {
  float max = 0;
  float sum = 0;
};

// The arguments of a merge: one split's results are added to the running results of a block of
// queries. Both sides are scaled to their common maximum.
struct MergeTask {
  // Queries [first, n_queries) take part. The others have no position in the split: their split_max
  // is -infinity and their split_sum 0.
  int64_t first = 0;
  int64_t n_queries = 0;
  int64_t head_dim = 0;
  float* const* out = nullptr;  // [n_queries] pointers to running sums of values, [head_dim]
  float* max = nullptr;         // [16] running maxima, by query
  float* sum = nullptr;         // [16] running sums of weights, by query
  const float* split_values = nullptr;  // [n_queries, split_stride]
  int64_t split_stride = 0;
  const float* split_max = nullptr;  // [16]
  const float* split_sum = nullptr;  // [16]
};

// The loops for one element type of the cache.
struct AttentionKernels {
  // Writes one query, [head_dim], as steps; overwrites up to RoundUp(head_dim, 32) floats.
  void (*pack_query)(const float* query, int64_t head_dim, float* to);
  void (*scores)(const ScoreTask& task);
  // Replaces scores[i] by its weight 2^(scores[i] * scale - max) for i < n and by 0 for n <= i <
  // n_padded. max is the greatest scores[i] * scale. n_padded: a multiple of 32. Returns max and
  // the sum of the weights. With a bf16 cache the weights are rounded to bf16 before they are
  // summed. They are stored as steps from the beginning of the row.
  SoftmaxSums (*softmax)(float* scores, int64_t n, int64_t n_padded, float scale);
  void (*values)(const ValueTask& task);
  int64_t step_floats;  // of a step of queries or weights
};

// The arguments of a search for the token with the best score (kernels/draw.h) in a row of logits.
struct DrawTask {
  const float* logits = nullptr;  // [n_tokens]
  uint64_t seed = 0;
  int32_t position = 0;   // of the token to be drawn
  float temperature = 1;  // > 0, a normal float
  float least = 0;        // LeastToBeat of the best score so far
  float least_logit = 0;  // tokens with a lower logit must not be drawn
};

// A token that may beat the best score so far, with its random word.
struct DrawCandidate {
  int32_t token_id = -1;
  uint32_t word = 0;
};

// Tokens whose random words are computed together.
inline constexpr int64_t kDrawTokensAtOnce = 64;

// What one pass over a row of logits finds.
struct LogitScan {
  bool all_finite = false;
  // The greatest logit and the lowest id that has it. Valid only if all logits are finite.
  float max = 0;
  int64_t argmax = 0;
};

// All loops of one level: pure functions, callable from any thread.
struct SimdKernels {
  MatMulKernels matmul[4];        // by WeightFormat
  int64_t matmul_tile_rows;       // most rows of a tile of x
  AttentionKernels attention[2];  // by DType of the cache
  void (*merge_split)(const MergeTask& task);
  // out[i] = row[i] / divisor for i < n; out may be row.
  void (*divide_row)(const float* row, int64_t n, float divisor, float* out);
  // out[i] = x[i] rounded to bf16 for i < n.
  void (*round_to_bf16)(const float* x, int64_t n, Bf16* out);
  // Rotates each of n_heads heads, [head_dim], in place. With half = head_dim / 2, for i < half:
  //   (x[i], x[i + half]) = (x[i] cos[i] - x[i + half] sin[i], x[i + half] cos[i] + x[i] sin[i])
  void (*rotate)(float* heads, int64_t n_heads, int64_t head_dim, const float* cosines,
                 const float* sines);
  // One row of AddRmsNorm: residual += delta (unless delta is null), then out = residual /
  // sqrt(mean(residual^2) + eps) * gain. All arrays are [dim].
  void (*add_rms_norm)(float* residual, const float* delta, const float* gain, int64_t dim,
                       float eps, float* out);
  // out[i] = silu(gate[i]) * up[i] for i < n.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  // Finds the greatest logit and whether all are finite.
  LogitScan (*scan_logits)(const float* logits, int64_t n);  // n > 0
  // out[i] = e^((logits[i] - max) / temperature) for i < n, by Exp of kernels/exact_math.h.
  void (*exp_logits)(const float* logits, int64_t n, double max, double temperature, double* out);
  // Finds the tokens of [begin, end) that may beat the best score: those with logit >= least_logit
  // and logit + temperature * GumbelBound(word) >= least. Writes them to `out`, which has room for
  // end - begin, in ascending order, and returns their number.
  // REQUIRES: begin is a multiple of kDrawTokensAtOnce.
  int64_t (*draw_candidates)(const DrawTask& task, int64_t begin, int64_t end, DrawCandidate* out);
  // weights[i] = IntegerWeight(WeightOf(logits[i], best_logit, temperature)) for i < n.
  // REQUIRES: no logit is above best_logit; the calling thread is set to count subnormal floats as
  // zero.
  void (*weigh_logits)(const float* logits, int64_t n, double best_logit, double temperature,
                       uint64_t* weights);
  // The number of logits that are greater than logits[id], or equal to it with a lower id.
  int64_t (*count_before)(const float* logits, int64_t n, int64_t id);
};

// The loops of a level. REQUIRES: SimdLevelAvailable(level).
const SimdKernels& GetSimdKernels(SimdLevel level);

}  // namespace bora
