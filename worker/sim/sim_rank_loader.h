// Loads simulated ranks: of the model they need the config alone.
#pragma once

#include <string>

#include "worker/sim/sim_cost.h"
#include "worker/stage/rank_loader.h"

namespace bora {

// Owned by the rank thread, but DeviceName.
class SimRankLoader final : public RankLoader {
 public:
  explicit SimRankLoader(const SimCost& cost) : cost_(cost) {}

  std::string DeviceName() const override;
  // States the fingerprint that a real rank would have, or where the weights are not here that of
  // dummy ones; no bytes of weights; and the KV blocks of a real rank, as many as can be named,
  // since none is kept: the coordinator's own limit counts.
  absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) override;
  // It takes no share of the host.
  void ShareHost(int, int) override {}

 private:
  const SimCost cost_;
};

}  // namespace bora
