#include "kernels/cuda/runtime/cuda_prelude.h"
#include "tests/cuda_host/ptx_kernels.h"

namespace bora::cuda_host {
namespace {

constexpr int kTile = 4 * kWarpSize;

__global__ void LoadKernel(bool transposed, const uint16_t* elements, uint32_t* out) {
  Shared shared;
  uint16_t* rows = shared.Take<uint16_t>(32 * 8);
  const int lane = threadIdx.x;
  CopyAsync16(rows + lane * 8, elements + lane * 8);
  CommitCopies();
  AwaitCopies<0>();
  __syncwarp();
  uint32_t loaded[4];
  if (transposed) {
    LoadMatricesTransposed(loaded, rows + lane * 8);
  } else {
    LoadMatrices(loaded, rows + lane * 8);
  }
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = loaded[i];
}

__global__ void MultiplyKernel(const uint32_t* a, const uint32_t* b, float* c) {
  const int lane = threadIdx.x;
  uint32_t my_a[4], my_b[2];
  float my_c[4];
  for (int i = 0; i < 4; ++i) my_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) my_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) my_c[i] = c[lane * 4 + i];
  MultiplyAddBf16(my_c, my_a, my_b);
  for (int i = 0; i < 4; ++i) c[lane * 4 + i] = my_c[i];
}

__global__ void TileKernel(const Bf16* a, const Bf16* b_transposed, float* d) {
  Shared shared;
  Bf16* rows_a = shared.Take<Bf16>(16 * 16);
  Bf16* rows_b = shared.Take<Bf16>(8 * 16);
  const int lane = threadIdx.x;
  CopyAsync16(rows_a + lane * 8, a + lane * 8);
  if (lane < 16) CopyAsync16(rows_b + lane * 8, b_transposed + lane * 8);
  CommitCopies();
  AwaitCopies<0>();
  __syncwarp();
  // Matrices of A in the order of its registers: the lower rows second, the right columns third.
  uint32_t my_a[4], twice_b[4];
  LoadMatrices(my_a, rows_a + lane % 16 * 16 + lane / 16 * 8);
  LoadMatrices(twice_b, rows_b + lane % 8 * 16 + lane / 8 % 2 * 8);
  const uint32_t my_b[2] = {twice_b[0], twice_b[1]};
  float c[4] = {0, 0, 0, 0};
  MultiplyAddBf16(c, my_a, my_b);
  const int group = lane / 4, pair = lane % 4 * 2;
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = c[i];
}

__global__ void StridedLoadKernel(bool swizzled) {
  Shared shared;
  Bf16* rows = shared.Take<Bf16>(8 * 64);
  const int lane = threadIdx.x;
  for (int i = lane; i < 8 * 64; i += kWarpSize) rows[i] = Bf16{0};
  __syncwarp();
  // Matrix m is column m of 16 bytes.
  const int row = lane % 8;
  const int column = swizzled ? (lane / 8) ^ row : lane / 8;
  uint32_t loaded[4];
  LoadMatrices(loaded, rows + row * 64 + column * 8);
}

__global__ void PipelineKernel(CopyBug bug, int n_tiles, const float* in, float* out) {
  Shared shared;
  float* stages[2];
  stages[0] = shared.Take<float>(kTile);
  stages[1] = shared.Take<float>(kTile);
  const int lane = threadIdx.x;
  for (int tile = -1; tile < n_tiles; ++tile) {
    if (tile + 1 < n_tiles) {
      const bool ends_early =
          tile + 2 == n_tiles && lane == kWarpSize - 1 && bug != CopyBug::kReadsOneTooFar;
      float* to = stages[(tile + 1) % 2] + lane * 4;
      if (bug == CopyBug::kWritesOneTooFar) to += 4;
      CopyAsync16(to, in + (tile + 1) * kTile + lane * 4, ends_early ? 8 : 16);
    }
    CommitCopies();
    if (tile < 0) continue;
    if (bug == CopyBug::kWaitTooWeak) {
      AwaitCopies<2>();
    } else {
      AwaitCopies<1>();
    }
    if (bug != CopyBug::kNoBarrierAfterWait) __syncwarp();
    const float* from = stages[tile % 2] + (lane + 1) % kWarpSize * 4;
    for (int i = 0; i < 4; ++i) out[tile * kTile + lane * 4 + i] = from[i];
    if (bug != CopyBug::kNoBarrierBeforeRefill) __syncwarp();
  }
}

}  // namespace

void RunLoadMatrices(CudaDevice& device, bool transposed, const uint16_t* elements, uint32_t* out) {
  LaunchKernel(device,
               {.n_threads = 32, .shared_bytes = SharedBytes().Add<uint16_t>(32 * 8).bytes()},
               LoadKernel, transposed, elements, out);
}

void RunMultiply(CudaDevice& device, const uint32_t* a, const uint32_t* b, float* c) {
  LaunchKernel(device, {.n_threads = 32}, MultiplyKernel, a, b, c);
}

void RunTile(CudaDevice& device, const Bf16* a, const Bf16* b_transposed, float* d) {
  LaunchKernel(
      device,
      {.n_threads = 32, .shared_bytes = SharedBytes().Add<Bf16>(16 * 16).Add<Bf16>(8 * 16).bytes()},
      TileKernel, a, b_transposed, d);
}

void RunStridedLoads(CudaDevice& device, bool swizzled) {
  LaunchKernel(device, {.n_threads = 32, .shared_bytes = SharedBytes().Add<Bf16>(8 * 64).bytes()},
               StridedLoadKernel, swizzled);
}

void RunPipeline(CudaDevice& device, CopyBug bug, int n_tiles, const float* in, float* out) {
  LaunchKernel(
      device,
      {.n_threads = 32, .shared_bytes = SharedBytes().Add<float>(kTile).Add<float>(kTile).bytes()},
      PipelineKernel, bug, n_tiles, in, out);
}

}  // namespace bora::cuda_host
