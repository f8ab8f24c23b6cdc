// The CUDA rank loader of builds without CUDA: there is no GPU to find or to use.
#include "worker/cuda/cuda_rank_loader.h"

namespace bora {

absl::StatusOr<std::unique_ptr<RankLoader>> MakeCudaRankLoader(const CudaLoaderOptions&) {
  return absl::UnavailableError(
      "this build has no CUDA: take --device=cpu, or build with cmake --preset cuda");
}

bool HasCudaDevice() { return false; }

std::vector<std::string> DescribeCudaDevices() { return {"cuda: not in this build"}; }

}  // namespace bora
