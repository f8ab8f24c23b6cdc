// The arithmetic of PagedAttention on a GPU: a warp's 16 queries against 32 positions, and the
// merge of splits. All kernels take it from here, so that all of them give the same bits.
//
// A warp's queries are the rows of tensor-core tiles (kernels/cuda/runtime/ptx.h): a lane has a
// part of the rows `lane / 4` and `lane / 4 + 8`, called its rows 0 and 1.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/vector_access.h"

namespace bora {

inline constexpr int kTileRows = 16;
inline constexpr int kPiecePositions = 32;
// Elements of a row of keys or values that are copied or loaded together: 16 bytes.
inline constexpr int kChunk = 8;

// In shared memory keys and values are [positions, kHeadDim], but the chunks of a position change
// places so that those of any 8 neighbouring positions lie in different banks: chunk c is at
// c ^ Swizzle(position).
template <int kHeadDim>
__device__ constexpr int Swizzle(int position) {
  constexpr int kChunks = kHeadDim / kChunk;
  // Positions in the 128 bytes of all banks.
  constexpr int kPositions = kChunks < 8 ? 8 / kChunks : 1;
  return position / kPositions % (kChunks < 8 ? kChunks : 8);
}

// First element of a chunk. With p a multiple of a power of two above q,
// ChunkOffset(p + q, a ^ b) = p * kHeadDim + (ChunkOffset(q, a) ^ (Swizzle(p) ^ b) * kChunk).
template <int kHeadDim>
__device__ constexpr int ChunkOffset(int position, int chunk) {
  return position * kHeadDim + (chunk ^ Swizzle<kHeadDim>(position)) * kChunk;
}

// The offset of 2 k chunks behind lane_offset, which is at chunk 0 or 1 of a position; the last
// term, of chunks that do not change places, is a constant next to a register.
__device__ constexpr int ChunkPair(int lane_offset, int k) {
  return (lane_offset ^ 2 * k % 8 * kChunk) + 2 * k / 8 * 8 * kChunk;
}

// The queries of a warp as A operands, 16 dimensions each, rounded to bf16.
template <int kHeadDim>
struct QueryTile {
  uint32_t a[kHeadDim / 16][4];
};

// Sums of a lane's two rows over some positions, relative to a maximum.
template <int kHeadDim>
struct AttentionSums {
  float max[2];      // of scores * log2(e); -inf: there was nothing to see
  float weights[4];  // [0], [1]: of row 0, [2], [3]: of row 1, twice the same
  // Of weighted values: [n][2 row + i] is dimension 8 n + lane % 4 * 2 + i.
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

// scores[n][2 row + i]: of position 8 n + lane % 4 * 2 + i. keys: of the 32 positions, as
// ChunkOffset says.
template <int kHeadDim>
__device__ __forceinline__ void ComputeScores(const QueryTile<kHeadDim>& query, const Bf16* keys,
                                              float (&scores)[4][4]) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
  // A load has two chunks of twice 8 positions.
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

// Adds the weighted values of the 32 positions and the weights. weights: as scores. values: as
// ChunkOffset says, finite (a weight of 0 does not save from NaN).
template <int kHeadDim>
__device__ __forceinline__ void AddValues(const float (&weights)[4][4], const Bf16* values,
                                          AttentionSums<kHeadDim>& sums) {
  const int lane = threadIdx.x % kWarpSize;
  constexpr uint32_t kTwoOnes = 0x3f803f80u;
  const uint32_t ones[2] = {kTwoOnes, kTwoOnes};
  // A load has two chunks of 16 positions.
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
// A row sees positions up to row_positions[row]; masked: some row does not see all of them. To
// leave a piece out changes nothing where no row sees any of it: its weights are 0, and it raises
// no maximum.
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
    // Four lanes have a row.
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
    const float new_max = fmaxf(sums.max[row], max * scale);
    // A row that has seen nothing keeps weights of 2^-inf.
    bases[row] = new_max == -INFINITY ? 0.0f : new_max;
    factors[row] = Exp2(sums.max[row] - bases[row]);
    sums.max[row] = new_max;
  }
  // Seldom after the first pieces; a factor of 1 would change nothing.
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

// How the sums of a split join those of the splits before it.
struct MergeFactors {
  float max, total, split;
};

__device__ __forceinline__ MergeFactors MergeFactorsOf(float total_max, float split_max) {
  const float max = fmaxf(total_max, split_max);
  return {max, Exp2(total_max - max), Exp2(split_max - max)};
}

__device__ __forceinline__ float Merged(const MergeFactors& factors, float total, float split) {
  return fmaf(total, factors.total, split * factors.split);
}

// A row that saw nothing of the split stays as it is.
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

// The result. Zeros lose their sign, in which weights of 0 may have left a trace.
__device__ __forceinline__ Bf16 Normalized(float values, float inverse_weights) {
  return ToBf16(fmaf(values, inverse_weights, 0.0f));
}

}  // namespace bora
