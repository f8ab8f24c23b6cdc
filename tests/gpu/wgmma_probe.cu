#include "kernels/cuda/runtime/cuda_prelude.h"
#include "tests/gpu/wgmma_probe.h"

namespace bora {
namespace {

constexpr int kThreads = 128;  // a warpgroup
constexpr int kStepCols = 16;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int kStageCols = 64;  // 128 bytes of a row
constexpr int kChunkCols = 8;

// PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions": rows of 128
// bytes whose 16-byte chunks are swizzled, 8 rows behind 8 rows; addresses and strides in 16 bytes.
__device__ uint64_t Descriptor(const Bf16* rows) {
  constexpr uint64_t kEightRows = 8 * kStageCols * sizeof(Bf16) / 16;
  constexpr uint64_t kSwizzle128 = 1;
  return (SharedAddress(rows) & 0x3ffff) >> 4 | uint64_t{1} << 16 | kEightRows << 32 |
         kSwizzle128 << 62;
}

// d += w x, with w: [64, 16] and x: [n, 16] in shared memory. A warp has 16 of the rows, in the
// layout of mma.m16n8k16's sums, one after the other for each 8 tokens.
__device__ void WarpgroupMultiplyAdd(float (&d)[4], uint64_t w, uint64_t x) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3}, "
      "%4, %5, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(w), "l"(x));
}

__device__ void WarpgroupMultiplyAdd(float (&d)[64], uint64_t w, uint64_t x) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63])
      : "l"(w), "l"(x));
}

// Rows [n_rows, kStageCols] of a stage, each chunk at its place.
__device__ void LoadStage(const Bf16* from, int n_rows, Bf16* stage) {
  constexpr int kChunks = kStageCols / kChunkCols;
  for (int i = threadIdx.x; i < n_rows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    *reinterpret_cast<uint4*>(stage + row * kStageCols + (chunk ^ row % 8) * kChunkCols) =
        *reinterpret_cast<const uint4*>(from + row * kProbeCols + chunk * kChunkCols);
  }
}

template <int kTokens>
__device__ void Store(const float (&sums)[kTokens / 2], int token_begin, float* y) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;
  for (int j = 0; j < kTokens / 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int token = token_begin + 8 * j + lane % 4 * 2 + i % 2;
      y[token * kProbeRows + row + i / 2 * 8] = sums[4 * j + i];
    }
  }
}

template <int kTokens>
__device__ void MultiplyByWarpgroup(const Bf16* w, const Bf16* x, Bf16* w_stage, Bf16* x_stage,
                                    float* y) {
  for (int token_begin = 0; token_begin < kProbeTokens; token_begin += kTokens) {
    float sums[kTokens / 2] = {};
    for (int col = 0; col < kProbeCols; col += kStageCols) {
      __syncthreads();
      LoadStage(w + col, kProbeRows, w_stage);
      LoadStage(x + token_begin * kProbeCols + col, kTokens, x_stage);
      // What was stored must be visible to the unit that reads by descriptors.
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncthreads();
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      for (int k = 0; k < kStageCols; k += kStepCols) {
        WarpgroupMultiplyAdd(sums, Descriptor(w_stage + k), Descriptor(x_stage + k));
      }
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    Store<kTokens>(sums, token_begin, y);
  }
}

#endif

__device__ uint32_t Pair(const Bf16* at) { return *reinterpret_cast<const uint32_t*>(at); }

__device__ void MultiplyByWarps(const Bf16* w, const Bf16* x, float* y) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;
  const int pair = lane % 4 * 2;
  for (int token_begin = 0; token_begin < kProbeTokens; token_begin += 8) {
    float sums[4] = {};
    for (int col = pair; col < kProbeCols; col += kStepCols) {
      const Bf16* low = w + row * kProbeCols + col;
      const Bf16* high = low + 8 * kProbeCols;
      const Bf16* token = x + (token_begin + lane / 4) * kProbeCols + col;
      const uint32_t a[4] = {Pair(low), Pair(high), Pair(low + 8), Pair(high + 8)};
      const uint32_t b[2] = {Pair(token), Pair(token + 8)};
      MultiplyAddBf16(sums, a, b);
    }
    for (int i = 0; i < 4; ++i) {
      y[(token_begin + pair + i % 2) * kProbeRows + row + i / 2 * 8] = sums[i];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    ProbeKernel(const Bf16* w, const Bf16* x, float* by_mma, float* by_narrow, float* by_wide) {
  MultiplyByWarps(w, x, by_mma);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ __align__(1024) Bf16 w_stage[kProbeRows * kStageCols];
  __shared__ __align__(1024) Bf16 x_stage[kProbeTokens * kStageCols];
  MultiplyByWarpgroup<8>(w, x, w_stage, x_stage, by_narrow);
  MultiplyByWarpgroup<kProbeTokens>(w, x, w_stage, x_stage, by_wide);
#endif
}

}  // namespace

void ProbeWgmma(CudaDevice& device, const Bf16* w, const Bf16* x, float* by_mma, float* by_narrow,
                float* by_wide) {
  LaunchKernel(device, {.n_threads = kThreads}, ProbeKernel, w, x, by_mma, by_narrow, by_wide);
}

}  // namespace bora
