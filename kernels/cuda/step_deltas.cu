#include "base/int_math.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/cuda/step_deltas.h"

namespace bora {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    TableKernel(int n_entries, const TableEntry* entries, int64_t max_blocks_per_row,
                int32_t* block_table) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= n_entries) return;
  const TableEntry entry = entries[i];
  block_table[entry.line * max_blocks_per_row + entry.block_idx] = entry.block_id;
}

__global__ void __launch_bounds__(kThreads)
    OpenSlotsKernel(int n_opened, const SlotSampling* opened, CudaSampling* sampling) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= n_opened) return;
  sampling[opened[i].slot] = opened[i].sampling;
}

}  // namespace

void ApplyStepDeltas(CudaDevice& device, const StepDeltas& deltas, int64_t max_blocks_per_row,
                     int32_t* block_table, CudaSampling* sampling) {
  LaunchKernel(device, {.n_blocks_x = CeilDiv(deltas.n_entries, kThreads), .n_threads = kThreads},
               TableKernel, deltas.n_entries, deltas.entries, max_blocks_per_row, block_table);
  LaunchKernel(device, {.n_blocks_x = CeilDiv(deltas.n_opened, kThreads), .n_threads = kThreads},
               OpenSlotsKernel, deltas.n_opened, deltas.opened, sampling);
}

void LoadStepDeltasKernels() { LoadKernels(TableKernel, OpenSlotsKernel); }

}  // namespace bora
