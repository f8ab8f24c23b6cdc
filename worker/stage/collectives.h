// Where a rank stands in its group, whom it must be linked with, and the collectives of its
// tensor-parallel group over a Mesh.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/mesh.h"

namespace bora {

// Ranks of a group are numbered stage by stage: rank = stage * tp_size + tp_rank. A plain value.
struct RankPlace {
  int stage = 0;
  int tp_rank = 0;
  int pp_size = 1;
  int tp_size = 1;

  int RankOf(int other_stage, int other_tp_rank) const {
    return other_stage * tp_size + other_tp_rank;
  }
  int rank() const { return RankOf(stage, tp_rank); }
  int n_ranks() const { return pp_size * tp_size; }
  bool is_first_stage() const { return stage == 0; }
  bool is_last_stage() const { return stage == pp_size - 1; }
  // The rank that samples and answers: tensor rank 0 of the last stage.
  int sampler() const { return RankOf(pp_size - 1, 0); }
  bool is_sampler() const { return rank() == sampler(); }
};

// The ranks of this rank's stage, ascending, with itself.
std::vector<int> TensorGroup(const RankPlace& place);

// What MeshOptions::peers must be, ascending: the tensor group; the same tensor rank of the stages
// before and after, for activations and step times; and between the sampler and every rank of the
// first stage, for sampled tokens. Symmetric: if A names B, B names A.
std::vector<int> MeshPeers(const RankPlace& place);

// Collectives of the tensor-parallel group of one rank; with one rank they do nothing or copy.
// Owned by the rank thread.
class Collectives {
 public:
  // `mesh` may be null when tp_size is 1; it outlives this object.
  Collectives(const RankPlace& place, Mesh* mesh);

  // data <- sum over the group, along Mesh::AllReduceSum's tree. [n], n equal on all ranks.
  absl::Status AllReduceSum(absl::Span<float> data);

  // all <- the parts of all ranks in order, on tensor rank 0; `all` is empty on the others.
  // local: [n], all: [tp_size, n].
  absl::Status GatherToFirst(absl::Span<const float> local, absl::Span<float> all);

 private:
  const std::vector<int> group_;
  Mesh* const mesh_;
};

}  // namespace bora
