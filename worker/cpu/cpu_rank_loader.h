// Loads ranks that compute on this host's CPUs. Ranks on one host divide the CPUs among them.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "kernels/cpu/cpu_device.h"
#include "worker/stage/rank_loader.h"

namespace bora {

// A plain value.
struct CpuRankOptions {
  // Number of threads of the device. 0: the number of CPUs that the process may use, divided by the
  // number of the group's ranks on this host. Ranks of all pipeline stages count, since with
  // several batches in flight all stages compute at the same time.
  int n_threads = 0;
  bool pin_threads = false;           // each to a CPU of its own, as far as there are enough CPUs
  SimdChoice simd = BestSimdLevel();  // instruction set of the kernels
};

// Owned by the rank thread, except DeviceName and CollectivesName, which are thread-safe.
class CpuRankLoader final : public RankLoader {
 public:
  explicit CpuRankLoader(const CpuRankOptions& options) : options_(options) {}

  std::string DeviceName() const override;
  absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) override;
  // Resizes the device to its share of the CPUs.
  void ShareHost(int place, int n_ranks) override;

 private:
  // Returns the threads and CPUs for rank number `place` of n_ranks ranks on this host.
  CpuDeviceOptions DeviceOptions(int place, int n_ranks) const;

  const CpuRankOptions options_;
  std::atomic<int> n_threads_{0};      // of the device; 0 before the first Load; read by DeviceName
  std::unique_ptr<CpuDevice> device_;  // null before the first Load; ranks point to it
};

}  // namespace bora
