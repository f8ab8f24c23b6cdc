// Checks that the workers of a group have read the same weights.
//
// There are two measures. A fingerprint identifies a checkpoint by the data that opening it shows:
// all workers must have the group's fingerprint. Digests are computed from the bytes of weights
// that a rank has read: ranks that read the same part of the model must have the same digests, and
// a worker that replaces another must have the digests of its predecessor. The weights of a group
// change only when no worker of the group holds the old ones any more.
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
  // `options` outlives the agreement. If options.fingerprint is set, it is the group's for ever.
  explicit WeightAgreement(const ClusterOptions& options);

  // The answer to a worker's fingerprint.
  enum class Verdict {
    kAgrees,   // it is the group's, or becomes the group's because the group had none
    kRefused,  // it is not the group's
    // It is not the group's, but more workers have come with it than hold the group's, which is
    // neither configured nor has a group formed with it. The caller must drop the holders and call
    // TakeFingerprint.
    kOutvotesTheGroup,
  };
  // Judges the fingerprint of a worker that has loaded. n_holders: workers of the group that have
  // loaded weights with the group's fingerprint. A fingerprint that is not the group's gets a vote.
  Verdict Judge(const std::string& fingerprint, int32_t n_holders);
  // How many workers have come with this fingerprint while the group's was another.
  int32_t n_votes(const std::string& fingerprint) const;
  // Replaces the group's fingerprint, and forgets all votes.
  void TakeFingerprint(const std::string& fingerprint);
  // To be called when no worker of the group holds loaded weights any more. The group then takes
  // the fingerprint of the next worker, unless options.fingerprint is set.
  void ForgetFingerprint();
  // The group's fingerprint; empty while unknown.
  const std::string& fingerprint() const { return fingerprint_; }

  // FAILED_PRECONDITION if a worker for this rank has read other bytes than the rank's worker in
  // the group that formed last; OK if no group has formed. `worker`: its name for the message.
  absl::Status CheckPlace(const std::string& worker, int32_t rank,
                          const WeightDigests& digests) const;
  // Finds two ranks that have read different bytes of the same weights; nullopt if there are none.
  // `digests`: [n_ranks].
  std::optional<DigestMismatch> FindMismatch(const std::vector<WeightDigests>& digests) const;
  // A group forms, whose ranks have these digests, [n_ranks]. From now on the group's fingerprint
  // cannot be outvoted. Logs a warning if the weights are not those of the previous group.
  void Settle(std::vector<WeightDigests> digests);
  // No worker is attached any more, so that a new one need not agree with the last group.
  void ForgetPlaces() { place_digests_.clear(); }
  // Text that identifies the weights of the group that formed last; empty before the first.
  const std::string& weights_digest() const { return weights_digest_; }

 private:
  const ClusterOptions& options_;
  const DigestLayout layout_;
  std::string fingerprint_;  // empty: unknown
  bool is_settled_ = false;  // the fingerprint was configured, or a group has formed with it
  // How many workers came with each other fingerprint since fingerprint_ was known.
  absl::flat_hash_map<std::string, int32_t> n_votes_;
  std::vector<WeightDigests> place_digests_;  // [n_ranks] of the group that formed last, or empty
  std::string weights_digest_;
};

}  // namespace bora
