// Ranks on a GPU, or on the CPU that stands in for one, inside a group of the tests.
#pragma once

#include <functional>
#include <memory>

#include "tests/worker/local_group.h"
#include "worker/cuda/cuda_rank.h"

namespace bora {

// For LocalGroupOptions::make_rank.
std::function<absl::StatusOr<std::unique_ptr<StepExecutor>>(const WeightSource&, const RankShape&)>
CudaRanks(const CudaRankOptions& options);

}  // namespace bora
