#include "coordinator/cluster/placement.h"

namespace bora {
namespace {

// How well the free rank suits the worker, from 0 (badly) to 3: see ChooseRank.
int Score(const ClusterOptions& options, const std::vector<AttachedWorker*>& ranks,
          const AttachedWorker& worker, int32_t rank) {
  if (worker.hello.loaded.has_value() && worker.hello.loaded->load == LoadForRank(options, rank)) {
    return 3;
  }
  bool stage_is_empty = true;
  bool stage_is_here = true;
  const int32_t stage_begin = rank / options.tp_size() * options.tp_size();
  for (int32_t other = stage_begin; other < stage_begin + options.tp_size(); ++other) {
    if (ranks[other] == nullptr) continue;
    stage_is_empty = false;
    stage_is_here &= ranks[other]->hello.endpoint.host_id == worker.hello.endpoint.host_id;
  }
  if (stage_is_empty) return 1;
  return stage_is_here ? 2 : 0;
}

}  // namespace

LoadModel LoadForRank(const ClusterOptions& options, int32_t rank) {
  LoadModel load = options.load;
  load.stage = rank / options.tp_size();
  load.tensor_rank = rank % options.tp_size();
  return load;
}

int32_t ChooseRank(const ClusterOptions& options, const std::vector<AttachedWorker*>& ranks,
                   const AttachedWorker& worker) {
  int32_t best = -1;
  int best_score = -1;
  for (int32_t rank = 0; rank < options.n_ranks(); ++rank) {
    if (ranks[rank] != nullptr) continue;
    const int score = Score(options, ranks, worker, rank);
    if (score <= best_score) continue;
    best = rank;
    best_score = score;
  }
  return best;
}

}  // namespace bora
