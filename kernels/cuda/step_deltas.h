// What a step changes in the state that a GPU keeps by slot: block tables and sampling parameters.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/sample.h"

namespace bora {

// block_table[line, block_idx] = block_id.
struct TableEntry {
  int32_t line = 0;
  int32_t block_idx = 0;
  int32_t block_id = 0;
};

struct SlotSampling {
  int32_t slot = 0;
  CudaSampling sampling;
};

// All in device memory.
struct StepDeltas {
  const TableEntry* entries = nullptr;  // [n_entries], all of different places
  int64_t n_entries = 0;
  const SlotSampling* opened = nullptr;  // [n_opened], all of different slots
  int64_t n_opened = 0;
};

// block_table: [.., max_blocks_per_row]; sampling: by slot.
void ApplyStepDeltas(CudaDevice& device, const StepDeltas& deltas, int64_t max_blocks_per_row,
                     int32_t* block_table, CudaSampling* sampling);

}  // namespace bora
