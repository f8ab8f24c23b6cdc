// Loads simulated ranks: of the model they need the config alone.
#pragma once

#include <string>

#include "worker/sim/sim_cost.h"
#include "worker/stage/rank_loader.h"

namespace bora {

// Owned by the rank thread, except DeviceName.
class SimRankLoader final : public RankLoader {
 public:
  explicit SimRankLoader(const SimCost& cost) : cost_(cost) {}

  std::string DeviceName() const override;
  // Reports the fingerprint that a real rank would have, or that of dummy weights if the weights
  // are not here; no bytes of weights; and KV blocks of a real rank's size, as many as can be
  // named, since none is kept: the coordinator's own limit counts.
  absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) override;
  // It takes no share of the host.
  void ShareHost(int, int) override {}

 private:
  const SimCost cost_;
};

}  // namespace bora
