// The arithmetic of PagedAttention on a GPU: how a warp computes its 16 queries against 32
// positions, and how splits are merged. All of its kernels use these functions, so that all of them
// give the same bits. ComputeScores, AddValues and AttendPiece must be called by the whole warp.
//
// A warp's queries are the rows of tensor-core tiles (kernels/cuda/runtime/ptx.h). A lane holds a
// part of tile rows `lane / 4` and `lane / 4 + 8`; these are called the lane's rows 0 and 1.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/vector_access.h"

namespace bora {

// Queries of a warp.
inline constexpr int kTileRows = 16;
// Positions that are computed together.
inline constexpr int kPiecePositions = 32;
// Elements that are copied or loaded together from a row of keys or values: 16 bytes.
inline constexpr int kChunk = 8;

// In shared memory keys and values are [positions, kHeadDim] with the chunks of each position
// permuted: chunk c lies at place c ^ Swizzle(position). So the same chunk of any 8 neighbouring
// positions lies in different banks.
template <int kHeadDim>
__device__ constexpr int Swizzle(int position) {
  constexpr int kChunks = kHeadDim / kChunk;
  // Positions that fit in the 128 bytes of all banks.
  constexpr int kPositions = kChunks < 8 ? 8 / kChunks : 1;
  return position / kPositions % (kChunks < 8 ? kChunks : 8);
}

// Index of the first element of a chunk. If p is a multiple of a power of two that is above q, then
//   ChunkOffset(p + q, a ^ b) = p * kHeadDim + (ChunkOffset(q, a) ^ (Swizzle(p) ^ b) * kChunk).
template <int kHeadDim>
__device__ constexpr int ChunkOffset(int position, int chunk) {
  return position * kHeadDim + (chunk ^ Swizzle<kHeadDim>(position)) * kChunk;
}

// The offset of the chunk 2 k chunks after the one at lane_offset, which is chunk 0 or 1 of a
// position. The second term covers the multiples of 8 chunks, which the permutation does not
// change: a constant added to a register.
__device__ constexpr int ChunkPair(int lane_offset, int k) {
  return (lane_offset ^ 2 * k % 8 * kChunk) + 2 * k / 8 * 8 * kChunk;
}

// The queries of a warp, rounded to bf16, as A operands of 16 dimensions each.
template <int kHeadDim>
struct QueryTile {
  uint32_t a[kHeadDim / 16][4];
};

// The sums of a lane's two rows over some positions, relative to the maximum of those positions.
template <int kHeadDim>
struct AttentionSums {
  float max[2];      // by row: of scores * log2(e); -inf: no position was visible
  float weights[4];  // [0] and [1]: of row 0; [2] and [3]: of row 1; both of a row are equal
  // Of weighted values: [n][2 row + i] belongs to dimension 8 n + lane % 4 * 2 + i.
  float values[kHeadDim / 8][4];

  __device__ __forceinline__ void Reset() {
    max[0] = max[1] = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[i] = 0;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[n][i] = 0;
    }
  }
};

// Computes the scores of a warp's queries with 32 positions: scores[n][2 row + i] belongs to
// position 8 n + lane % 4 * 2 + i. keys: the 32 positions in shared memory, laid out by
// ChunkOffset.
template <int kHeadDim>
__device__ __forceinline__ void ComputeScores(const QueryTile<kHeadDim>& query, const Bf16* keys,
                                              float (&scores)[4][4]) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
  // One load takes two chunks (16 dimensions) of 16 positions.
  const int lane_offset = ChunkOffset<kHeadDim>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t loaded[4];
      LoadMatrices(loaded, keys + half * 16 * kHeadDim + ChunkPair(lane_offset, k));
      const uint32_t first[2] = {loaded[0], loaded[1]}, second[2] = {loaded[2], loaded[3]};
      MultiplyAddBf16(scores[2 * half], query.a[k], first);
      MultiplyAddBf16(scores[2 * half + 1], query.a[k], second);
    }
  }
}

// Adds the weighted values of 32 positions, and their weights, to the sums. weights: in the order
// of scores. values: laid out by ChunkOffset; they must be finite, because a weight of 0 times NaN
// is NaN.
template <int kHeadDim>
__device__ __forceinline__ void AddValues(const float (&weights)[4][4], const Bf16* values,
                                          AttentionSums<kHeadDim>& sums) {
  const int lane = threadIdx.x % kWarpSize;
  constexpr uint32_t kTwoOnes = 0x3f803f80u;
  const uint32_t ones[2] = {kTwoOnes, kTwoOnes};
  // One load takes two chunks (16 dimensions) of 16 positions.
  const int lane_offset = ChunkOffset<kHeadDim>(lane % 16, lane / 16);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float(&low)[4] = weights[2 * half];
    const float(&high)[4] = weights[2 * half + 1];
    const uint32_t a[4] = {PackBf16(low[0], low[1]), PackBf16(low[2], low[3]),
                           PackBf16(high[0], high[1]), PackBf16(high[2], high[3])};
    MultiplyAddBf16(sums.weights, a, ones);
#pragma unroll
    for (int n = 0; n < kHeadDim / 16; ++n) {
      uint32_t loaded[4];
      LoadMatricesTransposed(loaded, values + half * 16 * kHeadDim + ChunkPair(lane_offset, n));
      const uint32_t first[2] = {loaded[0], loaded[1]}, second[2] = {loaded[2], loaded[3]};
      MultiplyAddBf16(sums.values[2 * n], a, first);
      MultiplyAddBf16(sums.values[2 * n + 1], a, second);
    }
  }
}

// Adds the 32 positions from position_begin on to a split's sums. scale: log2(e) / sqrt(head_dim).
// A row sees the positions up to row_positions[row]. masked: whether some row does not see all 32
// positions. Leaving out a piece that no row sees changes nothing: its weights would be 0, and it
// would raise no maximum.
template <int kHeadDim>
__device__ __forceinline__ void AttendPiece(const QueryTile<kHeadDim>& query, const Bf16* keys,
                                            const Bf16* values, int position_begin,
                                            const int (&row_positions)[2], bool masked, float scale,
                                            AttentionSums<kHeadDim>& sums) {
  const int pair = threadIdx.x % 4 * 2;
  float scores[4][4];
  ComputeScores<kHeadDim>(query, keys, scores);
  if (masked) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool visible = position_begin + 8 * n + pair + i % 2 <= row_positions[i / 2];
        scores[n][i] = visible ? scores[n][i] : -INFINITY;
      }
    }
  }
  float factors[2], bases[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float max = fmaxf(scores[0][2 * row], scores[0][2 * row + 1]);
#pragma unroll
    for (int n = 1; n < 4; ++n) {
      max = fmaxf(max, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
    }
    // Four neighbouring lanes hold parts of the same row.
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
    const float new_max = fmaxf(sums.max[row], max * scale);
    // A row that has seen no position subtracts 0 instead of -inf, so its weights are 2^-inf = 0,
    // not NaN.
    bases[row] = new_max == -INFINITY ? 0.0f : new_max;
    factors[row] = Exp2(sums.max[row] - bases[row]);
    sums.max[row] = new_max;
  }
  // The maximum seldom rises after the first pieces; a factor of 1 would change nothing.
  if (__ballot_sync(kFullMask, factors[0] != 1.0f || factors[1] != 1.0f) != 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.weights[i] *= factors[i / 2];
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.values[n][i] *= factors[i / 2];
    }
  }
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = Exp2(fmaf(scores[n][i], scale, -bases[i / 2]));
  }
  AddValues<kHeadDim>(scores, values, sums);
}

// How the sums of one split are added to those of the splits before it: the common maximum, and the
// factors of both sides.
struct MergeFactors {
  float max, total, split;
};

__device__ __forceinline__ MergeFactors MergeFactorsOf(float total_max, float split_max) {
  const float max = fmaxf(total_max, split_max);
  return {max, Exp2(total_max - max), Exp2(split_max - max)};
}

// The merged sum of one quantity.
__device__ __forceinline__ float Merged(const MergeFactors& factors, float total, float split) {
  return fmaf(total, factors.total, split * factors.split);
}

// Adds a split's sums to the total of the splits before it. A row that saw no position of the split
// stays unchanged.
template <int kHeadDim>
__device__ __forceinline__ void MergeSplit(const AttentionSums<kHeadDim>& split,
                                           AttentionSums<kHeadDim>& total) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if (split.weights[2 * row] == 0.0f) continue;
    const MergeFactors factors = MergeFactorsOf(total.max[row], split.max[row]);
    total.max[row] = factors.max;
    total.weights[2 * row] = Merged(factors, total.weights[2 * row], split.weights[2 * row]);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int i = 2 * row; i < 2 * row + 2; ++i) {
        total.values[n][i] = Merged(factors, total.values[n][i], split.values[n][i]);
      }
    }
  }
}

// The final result of one dimension. Adding 0 removes the sign of zeros, which may depend on
// positions with weight 0.
__device__ __forceinline__ Bf16 Normalized(float values, float inverse_weights) {
  return ToBf16(fmaf(values, inverse_weights, 0.0f));
}

}  // namespace bora
