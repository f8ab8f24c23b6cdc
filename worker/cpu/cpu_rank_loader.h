// Loads ranks that compute on this host's CPUs.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "kernels/cpu/cpu_device.h"
#include "worker/stage/rank_loader.h"

namespace bora {

struct CpuRankOptions {
  // Threads of the device; 0: the CPUs that the process may use, divided by the group's ranks on
  // this host. Pipeline stages count too: with several batches under way they all work at once.
  int n_threads = 0;
  bool pin_threads = false;  // to CPUs of their own as far as there are enough
  SimdChoice simd = BestSimdLevel();
};

// Owned by the rank thread, except DeviceName.
class CpuRankLoader final : public RankLoader {
 public:
  explicit CpuRankLoader(const CpuRankOptions& options) : options_(options) {}

  std::string DeviceName() const override;
  absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) override;
  // Gives the device its share of the CPUs.
  void ShareHost(int place, int n_ranks) override;

 private:
  // The share of rank number `place` of n_ranks on this host.
  CpuDeviceOptions DeviceOptions(int place, int n_ranks) const;

  const CpuRankOptions options_;
  std::atomic<int> n_threads_{0};  // of the device; 0 when there is none yet
  std::unique_ptr<CpuDevice> device_;
};

}  // namespace bora
