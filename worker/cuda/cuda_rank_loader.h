// Loads ranks that compute on one of this host's GPUs. A build without CUDA has the same functions
// (cuda_rank_loader_none.cc), for which every device is UNAVAILABLE.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/stage/rank_loader.h"

namespace bora {

// A plain value.
struct CudaLoaderOptions {
  int ordinal = 0;  // number of the GPU: cuda:0, cuda:1, ...
  // Share of the GPU's memory that this process may take for weights, working memory and KV cache,
  // in (0, 1]. The KV cache gets what the others leave.
  double memory_utilization = 0.9;
  // Whether all matrix products use Bora's own kernels, so that the result of a request depends on
  // the request alone, to the bit. If false, cuBLASLt computes large products.
  bool deterministic = true;
  bool use_graphs = true;  // record steps as CUDA graphs and replay them
};

// Returns a loader for the GPU of options.ordinal. Opens and checks the GPU on the caller's thread,
// and opens NCCL if it is installed; without NCCL the loader refuses groups of several ranks.
// Errors are those of OpenCudaDevice and, unless `deterministic`, of OpenMatrixLibrary. Call it
// before the process uses CUDA otherwise, since it sets an environment variable of the driver.
absl::StatusOr<std::unique_ptr<RankLoader>> MakeCudaRankLoader(const CudaLoaderOptions& options);

// Returns whether this host has a GPU that CUDA can see. It may still not be supported.
bool HasCudaDevice();

// Returns, for people, one line for each GPU with its name, compute capability and memory, or a
// single line that says why there is no GPU.
std::vector<std::string> DescribeCudaDevices();

}  // namespace bora
