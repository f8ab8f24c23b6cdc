// Applies a step's changes to the state that a GPU keeps by slot: block tables and sampling
// parameters.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/sample.h"

namespace bora {

// One change of a block table: block_table[line, block_idx] = block_id.
struct TableEntry {
  int32_t line = 0;
  int32_t block_idx = 0;
  int32_t block_id = 0;
};

// The sampling parameters of a slot that the step opens.
struct SlotSampling {
  int32_t slot = 0;
  CudaSampling sampling;
};

// The changes of one step; the arrays are in device memory.
struct StepDeltas {
  const TableEntry* entries = nullptr;  // [n_entries], no two for the same place
  int64_t n_entries = 0;
  const SlotSampling* opened = nullptr;  // [n_opened], no two for the same slot
  int64_t n_opened = 0;
};

// Queues the changes on the device's stream. block_table: [n_slots, max_blocks_per_row]. sampling:
// by slot. Both are in device memory. Lines and slots are not checked.
void ApplyStepDeltas(CudaDevice& device, const StepDeltas& deltas, int64_t max_blocks_per_row,
                     int32_t* block_table, CudaSampling* sampling);

}  // namespace bora
