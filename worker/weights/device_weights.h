// Reads a rank's weights into the memory of a device (a GPU) in the layout that its operations
// need: matrices row by row, with the rows of the gate and of the up projection interleaved
// (WeightLayout::kGatedRows).
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/weights_source.h"
#include "model/planning/partition.h"
#include "worker/weights/precision.h"
#include "worker/weights/rank_weights.h"
#include "worker/weights/weight_reading.h"

namespace bora {

// Memory of a device that host threads cannot write to directly. Host threads read rows into
// staging memory on the host, from where the rows are copied to the device. Owned by one thread,
// except that each piece of staging memory may be filled by another thread.
class DeviceMemory : public WeightMemory {
 public:
  // Allocates n_bytes bytes of the device's memory, zeroed and aligned to 256 bytes, and n_staging
  // pieces of staging memory of staging_bytes bytes each. Called once, before all other functions.
  // RESOURCE_EXHAUSTED if either memory is too small.
  virtual absl::Status Allocate(int64_t n_bytes, int n_staging, int64_t staging_bytes) = 0;
  // The piece `i` of staging memory, 0 <= i < n_staging.
  virtual uint8_t* staging(int i) = 0;

  // Copies n_groups groups of group_bytes bytes each, which are contiguous in staging(i), to the
  // device: group g to the address to + g * stride_bytes. stride_bytes is ignored if n_groups is 1.
  // The copy may go on after the return; until Wait, staging(i) must not be changed.
  virtual void Store(int i, uint8_t* to, int64_t n_groups, int64_t group_bytes,
                     int64_t stride_bytes) = 0;
  // Blocks until all copies are done. After that staging memory may be filled again.
  virtual void Wait() = 0;
  // Frees the staging memory; Store must not be called again. REQUIRES: no copy is under way.
  virtual void FreeStaging() = 0;
};

// Allocates `memory`, reads the share of `source` that belongs to a rank of this shape into it on
// the threads of `readers`, in layout kCudaMatrices, and returns the weights, which own `memory`.
// Each thread of `readers` gets a piece of staging memory. Blocks until the weights are on the
// device. REQUIRES: precision.weights is bf16 (CHECK). Errors are those of LoadHostWeights.
absl::StatusOr<std::unique_ptr<RankWeights>> LoadDeviceWeights(
    const WeightSource& source, const RankShape& shape, const Precision& precision,
    CpuDevice& readers, const LoadOptions& options, std::unique_ptr<DeviceMemory> memory);

}  // namespace bora
