// Chooses the place of a group that suits a worker best. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/cluster/cluster_options.h"
#include "coordinator/cluster/worker_registry.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

// The order to load that a worker of this rank gets: options.load with the rank's stage and tensor
// rank. rank: [0, n_ranks).
LoadModel LoadForRank(const ClusterOptions& options, int32_t rank);

// The free rank that suits the worker best, or -1 if no rank is free. The order of preference is:
//   - the rank whose weights the worker has loaded already;
//   - a rank of a stage whose other workers are all on the worker's host;
//   - a rank of a stage that has no worker yet;
//   - any other rank. Among equals the lowest is chosen.
// Ranks of one stage should share a host, since tensor parallelism exchanges data in every layer.
// `ranks`: [n_ranks], null for a free place.
int32_t ChooseRank(const ClusterOptions& options, const std::vector<AttachedWorker*>& ranks,
                   const AttachedWorker& worker);

}  // namespace bora
