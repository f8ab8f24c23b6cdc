// The place of a rank in its group, the ranks that it needs links to, and the collectives of its
// tensor-parallel group, which use a Mesh.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/mesh.h"

namespace bora {

// The place of a rank in a group. Ranks are numbered stage by stage: rank = stage * tp_size +
// tp_rank. A plain value.
struct RankPlace {
  int stage = 0;    // [0, pp_size)
  int tp_rank = 0;  // within the stage, [0, tp_size)
  int pp_size = 1;  // stages of the group
  int tp_size = 1;  // ranks of each stage

  // The number of the rank at another place of the same group.
  int RankOf(int other_stage, int other_tp_rank) const {
    return other_stage * tp_size + other_tp_rank;
  }
  int rank() const { return RankOf(stage, tp_rank); }
  int n_ranks() const { return pp_size * tp_size; }
  bool is_first_stage() const { return stage == 0; }
  bool is_last_stage() const { return stage == pp_size - 1; }
  // The rank that samples tokens and sends results to the coordinator: tensor rank 0 of the last
  // stage.
  int sampler() const { return RankOf(pp_size - 1, 0); }
  bool is_sampler() const { return rank() == sampler(); }
};

// Returns the ranks of the stage of `place`, ascending, itself included: [tp_size].
std::vector<int> TensorGroup(const RankPlace& place);

// Returns the value for MeshOptions::peers of a rank: the other ranks that it exchanges data with,
// ascending. These are the other ranks of its tensor group; the same tensor rank of the stages
// before and after, for activations and step times; and, for sampled tokens, the sampler if the
// rank is in the first stage, and all ranks of the first stage if it is the sampler. Symmetric: if
// A has peer B, then B has peer A.
std::vector<int> MeshPeers(const RankPlace& place);

// Collectives of the tensor-parallel group of one rank. All ranks of the group must call the same
// functions in the same order; a call blocks until this rank's part is done. Errors are those of
// the Mesh. Owned by the rank thread.
class Collectives {
 public:
  // REQUIRES: `mesh` outlives this object, and is not null unless tp_size is 1 (CHECK).
  Collectives(const RankPlace& place, Mesh* mesh);

  // Replaces `data` [n] by the sum of the data of all ranks of the group, in the order of
  // Mesh::AllReduceSum. n must be equal on all ranks. Does nothing if tp_size is 1.
  absl::Status AllReduceSum(absl::Span<float> data);

  // Collects the `local` [n] of all ranks of the group, in the order of tensor ranks, in `all`
  // [tp_size, n] of tensor rank 0. On other ranks `all` must be empty. n must be equal on all
  // ranks.
  absl::Status GatherToFirst(absl::Span<const float> local, absl::Span<float> all);

 private:
  const std::vector<int> group_;
  Mesh* const mesh_;
};

}  // namespace bora
