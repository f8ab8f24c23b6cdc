#include "kernels/cuda/runtime/cuda_prelude.h"
#include "tests/cuda_host/shim_kernels.h"

namespace bora::cuda_host {
namespace {

__global__ void ShuffleKernel(int operand, int width, const float* in, float* out) {
  const int lane = threadIdx.x;
  const float mine = in[lane];
  out[lane] = __shfl_sync(kFullMask, mine, operand, width);
  out[32 + lane] = __shfl_up_sync(kFullMask, mine, operand, width);
  out[64 + lane] = __shfl_down_sync(kFullMask, mine, operand, width);
  out[96 + lane] = __shfl_xor_sync(kFullMask, mine, operand, width);
}

__global__ void BallotKernel(unsigned* out) {
  out[threadIdx.x] = __ballot_sync(kFullMask, threadIdx.x % 3 == 0);
}

__global__ void WideWordsKernel(uint64_t* out) {
  const int lane = threadIdx.x;
  const uint64_t mine = lane + (uint64_t{1} << 40) * (lane + 1);
  out[lane] = __shfl_down_sync(kFullMask, mine, 1);
  out[32 + lane] = __shfl_xor_sync(kFullMask, mine, 1);
  out[64 + lane] = __umul64hi(mine, (uint64_t{1} << 63) + lane);
}

__global__ void CountKernel(CountBug bug, const int* in, uint32_t* out) {
  const int thread = threadIdx.x;
  Shared shared;
  uint32_t* counts = shared.Take<uint32_t>(kCountBins);
  if (bug != CountBug::kDoesNotClear && thread < kCountBins) counts[thread] = 0;
  if (bug != CountBug::kNoBarrierAfterClearing) __syncthreads();
  int bin = in[blockIdx.x * 64 + thread] % kCountBins;
  if (bug == CountBug::kOneBinTooFar && thread == 63) bin = kCountBins;
  if (bug == CountBug::kOneThreadAddsWithoutAtomic && thread == 63) {
    ++counts[bin];
  } else {
    atomicAdd(&counts[bin], 1u);
  }
  if (bug != CountBug::kNoBarrierBeforeReading) __syncthreads();
  if (thread >= kCountBins) return;
  if (bug == CountBug::kBlocksAddWithoutAtomic && blockIdx.x == 1) {
    out[thread] += counts[thread];
  } else {
    atomicAdd(&out[thread], counts[thread]);
  }
}

__global__ void RingKernel(int n_rounds, int* out) {
  const int n_threads = blockDim.x;
  const int me = threadIdx.x;
  Shared shared;
  int* slots = shared.Take<int>(n_threads);
  slots[me] = me;
  for (int round = 0; round < n_rounds; ++round) {
    __syncthreads();
    const int from_before = slots[(me + n_threads - 1) % n_threads];
    __syncthreads();
    slots[me] = from_before;
  }
  out[blockIdx.x * n_threads + me] = slots[me];
}

__global__ void MisuseKernel(Misuse misuse, const int* in, int* out) {
  const int thread = threadIdx.x;
  const int lane = thread % kWarpSize;
  Shared shared;
  int* slots = shared.Take<int>(misuse == Misuse::kTakesDifferently && thread == 3 ? 63 : 64);
  if (misuse == Misuse::kBarrierAfterExit && thread == 0) return;
  if (misuse == Misuse::kExitBeforeBarrier && thread == 40) return;
  int value = in[blockIdx.x * 64 + thread];
  if (misuse == Misuse::kNotInOwnMask) value = __shfl_sync(kFullMask << 1, value, 1);
  if (misuse == Misuse::kReadsOutsideMask && lane < 16) {
    value = __shfl_xor_sync(0xffffu, value, 16);
  }
  if (misuse == Misuse::kDifferentOperations) {
    if (lane % 2 == 0) {
      value = __shfl_xor_sync(kFullMask, value, 1);
    } else {
      value = static_cast<int>(__ballot_sync(kFullMask, value));
    }
  }
  // In-warp exchange: shuffles order nothing, __syncwarp does.
  slots[thread] = value;
  value = __shfl_xor_sync(kFullMask, value, 1);
  if (misuse != Misuse::kNoWarpBarrier) __syncwarp();
  value += slots[thread ^ 1];
  if (misuse != Misuse::kNoWarpBarrierBeforeRewrite) __syncwarp();
  value = __shfl_xor_sync(kFullMask, value, 1);
  slots[thread] = value;
  if (misuse == Misuse::kDifferentBarriers && thread < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[(misuse == Misuse::kBlocksWriteTheSame ? 0 : blockIdx.x * 64) + thread] = slots[63 - thread];
}

}  // namespace

void RunShuffles(CudaDevice& device, int operand, int width, const float* in, float* out) {
  LaunchKernel(device, {.n_threads = 32}, ShuffleKernel, operand, width, in, out);
}

void RunBallot(CudaDevice& device, int n_threads, unsigned* out) {
  LaunchKernel(device, {.n_threads = n_threads}, BallotKernel, out);
}

void RunWideWords(CudaDevice& device, uint64_t* out) {
  LaunchKernel(device, {.n_threads = 32}, WideWordsKernel, out);
}

void RunCount(CudaDevice& device, CountBug bug, int n_blocks, const int* in, uint32_t* out) {
  LaunchKernel(device,
               {.n_blocks_x = n_blocks,
                .n_threads = 64,
                .shared_bytes = SharedBytes().Add<uint32_t>(kCountBins).bytes()},
               CountKernel, bug, in, out);
}

void RunRing(CudaDevice& device, int n_blocks, int n_threads, int n_rounds, int* out) {
  LaunchKernel(device,
               {.n_blocks_x = n_blocks,
                .n_threads = n_threads,
                .shared_bytes = SharedBytes().Add<int>(n_threads).bytes()},
               RingKernel, n_rounds, out);
}

void RunMisuse(CudaDevice& device, Misuse misuse, int n_blocks, const int* in, int* out) {
  LaunchKernel(
      device,
      {.n_blocks_x = n_blocks, .n_threads = 64, .shared_bytes = SharedBytes().Add<int>(64).bytes()},
      MisuseKernel, misuse, in, out);
}

}  // namespace bora::cuda_host
