#include "worker/stage/collectives.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace bora {

std::vector<int> TensorGroup(const RankPlace& place) {
  std::vector<int> group;
  group.reserve(place.tp_size);
  for (int i = 0; i < place.tp_size; ++i) group.push_back(place.RankOf(place.stage, i));
  return group;
}

std::vector<int> MeshPeers(const RankPlace& place) {
  std::set<int> peers;
  for (const int rank : TensorGroup(place)) peers.insert(rank);
  if (!place.is_first_stage()) peers.insert(place.RankOf(place.stage - 1, place.tp_rank));
  if (!place.is_last_stage()) peers.insert(place.RankOf(place.stage + 1, place.tp_rank));
  // The sampler sends sampled tokens to the first stage, for rows with use_last_sampled.
  if (place.is_first_stage()) peers.insert(place.sampler());
  if (place.is_sampler()) {
    for (int i = 0; i < place.tp_size; ++i) peers.insert(place.RankOf(0, i));
  }
  peers.erase(place.rank());  // tensor group and sampler may be this rank
  return std::vector<int>(peers.begin(), peers.end());
}

Collectives::Collectives(const RankPlace& place, Mesh* mesh)
    : group_(TensorGroup(place)), mesh_(mesh) {
  CHECK(mesh != nullptr || place.tp_size == 1) << "tp_size " << place.tp_size << " without a mesh";
}

absl::Status Collectives::AllReduceSum(absl::Span<float> data) {
  if (group_.size() == 1) return absl::OkStatus();
  return mesh_->AllReduceSum(group_, data);
}

absl::Status Collectives::GatherToFirst(absl::Span<const float> local, absl::Span<float> all) {
  if (group_.size() == 1) {
    std::copy(local.begin(), local.end(), all.begin());
    return absl::OkStatus();
  }
  return mesh_->GatherTo(group_[0], group_, local, all);
}

}  // namespace bora
