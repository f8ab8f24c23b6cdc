// Loads ranks that compute on one of this host's GPUs. Builds without CUDA have this header too
// (cuda_rank_loader_none.cc): there every device is UNAVAILABLE.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/stage/rank_loader.h"

namespace bora {

struct CudaLoaderOptions {
  int ordinal = 0;  // of the GPU: cuda:0, cuda:1, ...
  // Part of the GPU's memory that this process may take, in (0, 1]: weights, working memory, and
  // what is left for the KV cache.
  double memory_utilization = 0.9;
  // All matrix products by our own kernels, so that a request's bytes depend on nothing but the
  // request; otherwise large ones are left to cuBLASLt.
  bool deterministic = true;
  bool use_graphs = true;
};

// The GPU is opened and checked here, on the caller's thread. Errors are those of OpenCudaDevice
// and, unless `deterministic`, of OpenMatrixLibrary; they name the device. NCCL is opened if it is
// there; without it the loader refuses groups of several ranks.
absl::StatusOr<std::unique_ptr<RankLoader>> MakeCudaRankLoader(const CudaLoaderOptions& options);

// Whether MakeCudaRankLoader would find a GPU at all.
bool HasCudaDevice();

// For people: a line for each GPU with its name, compute capability and memory, or one line that
// says why there is none.
std::vector<std::string> DescribeCudaDevices();

}  // namespace bora
