#include "tests/cuda/cuda_ranks.h"

namespace bora {

std::function<absl::StatusOr<std::unique_ptr<StepExecutor>>(const WeightSource&, const RankShape&)>
CudaRanks(const CudaRankOptions&) {
  return
      [](const WeightSource&, const RankShape&) -> absl::StatusOr<std::unique_ptr<StepExecutor>> {
        return absl::UnavailableError("this build has no CUDA (cmake --preset cuda)");
      };
}

}  // namespace bora
