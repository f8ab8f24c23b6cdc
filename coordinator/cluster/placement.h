// Which place of a group suits a worker best.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/cluster/cluster_options.h"
#include "coordinator/cluster/worker_registry.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

// The part of the group's model that the rank loads.
LoadModel LoadForRank(const ClusterOptions& options, int32_t rank);

// The free rank that suits the worker best, or -1 if none is free. In this order: the rank whose
// weights the worker has already, a rank of a stage that is on its host alone, a rank of a stage
// that nobody has, any; of equals the lowest. `ranks`: [n_ranks], null for a free place. A pure
// function.
int32_t ChooseRank(const ClusterOptions& options, const std::vector<AttachedWorker*>& ranks,
                   const AttachedWorker& worker);

}  // namespace bora
