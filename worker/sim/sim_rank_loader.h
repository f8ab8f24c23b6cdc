// Loads simulated ranks. They need the model's config, but not its weights.
#pragma once

#include <string>

#include "worker/sim/sim_cost.h"
#include "worker/stage/rank_loader.h"

namespace bora {

// Owned by the rank thread, except that any thread may call DeviceName.
class SimRankLoader final : public RankLoader {
 public:
  // Every rank that is loaded takes the times of `cost`.
  explicit SimRankLoader(const SimCost& cost) : cost_(cost) {}

  std::string DeviceName() const override;
  // The result states the fingerprint that a real rank would have, or that of dummy weights if the
  // model's weights are not on this host; no bytes of weights; and a real rank's bytes of a KV
  // block. It states as many blocks as can be numbered or as memory allows for their bookkeeping,
  // because a simulated rank stores no keys and values: the coordinator's own limit decides.
  absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) override;
  // Does nothing: a simulated rank has no threads to divide among the ranks of a host.
  void ShareHost(int, int) override {}

 private:
  const SimCost cost_;
};

}  // namespace bora
