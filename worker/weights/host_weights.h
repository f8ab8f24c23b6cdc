// Reads a rank's weights into the host's memory, packed for a CpuDevice.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/weights_source.h"
#include "model/planning/partition.h"
#include "worker/weights/precision.h"
#include "worker/weights/rank_weights.h"
#include "worker/weights/weight_reading.h"

namespace bora {

// Reads the rank's share of `source` on the threads of `device` and packs its matrices
// (kCpuMatrices). INVALID_ARGUMENT if the model has heads larger than the kernels take;
// RESOURCE_EXHAUSTED if memory is short; CANCELLED; errors of the source, with the tensor named.
absl::StatusOr<std::unique_ptr<RankWeights>> LoadHostWeights(const WeightSource& source,
                                                             const RankShape& shape,
                                                             const Precision& precision,
                                                             CpuDevice& device,
                                                             const LoadOptions& options = {});

}  // namespace bora
