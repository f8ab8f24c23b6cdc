// Reads a rank's weights into the memory of a device, as its operations take them: matrices by
// rows, gate and up rows taking turns.
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

// Memory of a device that host threads cannot write to: they read rows into staging memory, from
// where they are copied. Owned by one thread, except the pieces of staging memory, each of which
// one thread fills.
class DeviceMemory : public WeightMemory {
 public:
  // n_bytes of the device, zero, 256-byte aligned, and n_staging pieces of staging memory.
  // RESOURCE_EXHAUSTED if there is not so much.
  virtual absl::Status Allocate(int64_t n_bytes, int n_staging, int64_t staging_bytes) = 0;
  virtual uint8_t* staging(int i) = 0;

  // Copies n_groups groups that lie one behind another in staging(i) to the device, where they
  // begin at `to` and every stride_bytes behind it.
  virtual void Store(int i, uint8_t* to, int64_t n_groups, int64_t group_bytes,
                     int64_t stride_bytes) = 0;
  // Returns when all copies are done: staging memory may be filled again.
  virtual void Wait() = 0;
  // Ends staging: nothing more will be stored.
  virtual void FreeStaging() = 0;
};

// Reads the rank's share of `source` on the threads of `readers` into `memory` (kCudaMatrices).
// REQUIRES: the matrices are bf16 (CHECK). Errors are those of LoadHostWeights.
absl::StatusOr<std::unique_ptr<RankWeights>> LoadDeviceWeights(
    const WeightSource& source, const RankShape& shape, const Precision& precision,
    CpuDevice& readers, const LoadOptions& options, std::unique_ptr<DeviceMemory> memory);

}  // namespace bora
