#include "coordinator/cluster/weight_agreement.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bora {

WeightAgreement::WeightAgreement(const ClusterOptions& options)
    : options_(options),
      layout_{.tp_size = options.tp_size(),
              .n_kv_heads = options.n_kv_heads,
              .tied_head = options.tied_head},
      fingerprint_(options.fingerprint),
      is_settled_(!options.fingerprint.empty()) {}

WeightAgreement::Verdict WeightAgreement::Judge(const std::string& fingerprint, int32_t n_holders) {
  if (fingerprint_.empty()) fingerprint_ = fingerprint;
  if (fingerprint == fingerprint_) return Verdict::kAgrees;
  const int32_t n_votes = ++n_votes_[fingerprint];
  return is_settled_ || n_votes <= n_holders ? Verdict::kRefused : Verdict::kOutvotesTheGroup;
}

int32_t WeightAgreement::n_votes(const std::string& fingerprint) const {
  const auto it = n_votes_.find(fingerprint);
  return it == n_votes_.end() ? 0 : it->second;
}

void WeightAgreement::TakeFingerprint(const std::string& fingerprint) {
  fingerprint_ = fingerprint;
  n_votes_.clear();
}

void WeightAgreement::ForgetFingerprint() {
  if (!options_.fingerprint.empty()) return;
  fingerprint_.clear();
  is_settled_ = false;
  n_votes_.clear();
}

absl::Status WeightAgreement::CheckPlace(const std::string& worker, int32_t rank,
                                         const WeightDigests& digests) const {
  if (place_digests_.empty()) return absl::OkStatus();
  const WeightDigests& before = place_digests_[rank];
  for (int i = 0; i < kNDigestParts; ++i) {
    if (digests.parts[i] == before.parts[i]) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        worker, " has read other weights than rank ", rank, " had before (",
        DigestPartName(static_cast<DigestPart>(i)), ": digest ", digests.parts[i].ToHex(), ", was ",
        before.parts[i].ToHex(),
        "): its files differ from the group's; to change the weights restart all workers"));
  }
  return absl::OkStatus();
}

std::optional<DigestMismatch> WeightAgreement::FindMismatch(
    const std::vector<WeightDigests>& digests) const {
  return FindDigestMismatch(digests, layout_);
}

void WeightAgreement::Settle(std::vector<WeightDigests> digests) {
  is_settled_ = true;
  place_digests_ = std::move(digests);
  const std::string digest = WeightsDigestText(fingerprint_, ModelDigest(place_digests_, layout_));
  if (!weights_digest_.empty() && digest != weights_digest_) {
    LogWarning("the group has other weights than the one before",
               {{"before", weights_digest_}, {"now", digest}});
  }
  weights_digest_ = digest;
}

}  // namespace bora
