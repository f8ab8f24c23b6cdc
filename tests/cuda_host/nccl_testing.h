// What the tests with the library of fake_nccl.cc have in common: ranks are threads, each with
// streams of its own.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "kernels/nccl/nccl_communicator.h"

namespace bora {

// For what comes at once unless something is broken.
inline constexpr absl::Duration kPatience = absl::Seconds(30);

inline std::unique_ptr<NcclLibrary> OpenFake() {
  absl::StatusOr<std::unique_ptr<NcclLibrary>> library = NcclLibrary::Open(BORA_FAKE_NCCL);
  CHECK_OK(library.status());
  return *std::move(library);
}

inline NcclId MakeId(const NcclLibrary& library) {
  const absl::StatusOr<NcclId> id = library.MakeId();
  CHECK_OK(id.status());
  return *id;
}

inline NcclCommunicatorOptions OptionsOf(const NcclId& id, int rank, int n_ranks) {
  NcclCommunicatorOptions options;
  options.id = id;
  options.rank = rank;
  options.n_ranks = n_ranks;
  options.name = "test";
  options.deadline = SteadyNow() + kPatience;
  return options;
}

inline CudaStream NewStream() {
  absl::StatusOr<CudaStream> stream = CudaStream::Create();
  CHECK_OK(stream.status());
  return *std::move(stream);
}

inline std::unique_ptr<NcclCommunicator> MustConnect(const NcclLibrary& library,
                                                     const NcclCommunicatorOptions& options) {
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> connected =
      NcclCommunicator::Connect(&library, options);
  CHECK_OK(connected.status());
  return *std::move(connected);
}

// body(rank) on as many threads as there are ranks.
inline void OnThreads(int n_ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(n_ranks));
  for (int rank = 0; rank < n_ranks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace bora
