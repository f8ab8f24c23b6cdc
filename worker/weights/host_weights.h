// Reads a rank's weights into the memory of the host, packed for a CpuDevice.
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

// Reads the share of `source` that belongs to a rank of this shape on the threads of `device`,
// packs its matrices (kCpuMatrices), and returns the weights, which own their memory. Errors:
// INVALID_ARGUMENT if head_dim is larger than the kernels support; RESOURCE_EXHAUSTED if there is
// too little memory; CANCELLED if options.cancelled became true; errors of the source, with the
// tensor named. Blocks until everything is read.
absl::StatusOr<std::unique_ptr<RankWeights>> LoadHostWeights(const WeightSource& source,
                                                             const RankShape& shape,
                                                             const Precision& precision,
                                                             CpuDevice& device,
                                                             const LoadOptions& options = {});

}  // namespace bora
