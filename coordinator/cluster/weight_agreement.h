// Whether the workers of a group have read the same weights.
//
// Two measures. The fingerprint is of a checkpoint as far as opening it tells: every worker must
// have the group's. Digests are of the bytes that a rank has read: ranks that read the same bytes
// must have the same digests, and a worker that takes the place of another must have read what that
// one had. The weights of a group change only if none of its workers holds the old ones any more.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "coordinator/cluster/cluster_options.h"
#include "model/checkpoint/weight_digest.h"

namespace bora {

// Owned by the engine thread.
class WeightAgreement {
 public:
  // `options` outlives it.
  explicit WeightAgreement(const ClusterOptions& options);

  // What a worker's fingerprint means to a group whose fingerprint n_holders workers have.
  enum class Verdict {
    kAgrees,   // it is the group's, or it becomes the group's because there was none
    kRefused,  // the group keeps its own
    // More workers have come with this fingerprint than hold the group's: the holders have to go,
    // and the group takes this one (TakeFingerprint).
    kOutvotesTheGroup,
  };
  Verdict Judge(const std::string& fingerprint, int32_t n_holders);
  // Workers that have come with this fingerprint while the group's was another.
  int32_t n_votes(const std::string& fingerprint) const;
  void TakeFingerprint(const std::string& fingerprint);
  // No worker of the group has loaded weights any more: unless the fingerprint was configured, the
  // next worker brings one.
  void ForgetFingerprint();
  const std::string& fingerprint() const { return fingerprint_; }

  // FAILED_PRECONDITION, with `worker` as the subject of the message, if a worker for this rank has
  // read other bytes than the rank's worker in the group that formed last.
  absl::Status CheckPlace(const std::string& worker, int32_t rank,
                          const WeightDigests& digests) const;
  // Two ranks that have read other bytes of the same weights; digests: [n_ranks].
  std::optional<DigestMismatch> FindMismatch(const std::vector<WeightDigests>& digests) const;
  // A group forms that has read this, [n_ranks]: its fingerprint holds from now on, and a warning
  // is logged if its weights are not those of the group before.
  void Settle(std::vector<WeightDigests> digests);
  // No worker is left that a new one would have to agree with.
  void ForgetPlaces() { place_digests_.clear(); }
  // Of the group that formed last; empty before the first.
  const std::string& weights_digest() const { return weights_digest_; }

 private:
  const ClusterOptions& options_;
  const DigestLayout layout_;
  std::string fingerprint_;  // empty: unknown
  bool is_settled_ = false;  // the fingerprint was configured, or a group has formed with it
  // Workers that came with another fingerprint since fingerprint_ was known.
  absl::flat_hash_map<std::string, int32_t> n_votes_;
  std::vector<WeightDigests> place_digests_;  // [n_ranks] of the group that formed last, or empty
  std::string weights_digest_;
};

}  // namespace bora
