#include "coordinator/scheduler/displacement.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"

namespace bora {
namespace {

// Whether `running` gives way to `next` because of its lower class.
bool GivesWayToClass(const Sequence& running, const Sequence& next) {
  return next.priority < running.priority && next.age < running.age;
}

// Whether a tenant of the same class may take a slot of `giver`, which has given n_taken already.
// share(tenant) is the number of running sequences that the tenant is entitled to.
template <typename ShareFunction>
bool MayTake(const Tenant& taker, const Tenant& giver, int32_t n_taken,
             const ShareFunction& share) {
  if (&taker == &giver || taker.virtual_tokens >= giver.virtual_tokens) return false;
  return taker.n_running + 1 <= share(taker) && giver.n_running - n_taken - 1 >= share(giver);
}

}  // namespace

Displacement::Displacement(int32_t n_slots)
    // Of kMaxPauseUs + kShareUs each sequence may pause for kMaxPauseUs.
    : n_pauses_max_(
          std::max(1, n_slots / static_cast<int32_t>((kMaxPauseUs + kShareUs) / kMaxPauseUs))) {}

std::vector<Sequence*> Displacement::GiversFor(const Sequence& next,
                                               const RunningSequences& running,
                                               const FairQueue& queue, int64_t now_us) const {
  const std::vector<Sequence*>& by_age = running.by_age();
  std::vector<Sequence*> givers;
  // A sequence whose client does not read needs no slot now.
  for (size_t i = by_age.size(); i-- > 0;) {
    if (by_age[i]->held) givers.push_back(by_age[i]);
  }
  if (&next == FirstOverdue(now_us)) {
    const std::vector<Sequence*> more = GiversForOverdue(next, running, now_us);
    givers.insert(givers.end(), more.begin(), more.end());
    return givers;
  }
  const auto share = [&](const Tenant& tenant) {
    return std::max(1.0, queue.Share(tenant) * running.size());
  };
  absl::flat_hash_map<const Tenant*, int32_t> n_taken;
  int32_t n_left = n_pauses_left();
  // The oldest stays.
  for (size_t i = by_age.size(); i-- > 1;) {
    Sequence* const giver = by_age[i];
    if (giver->held) continue;
    if (giver->priority != next.priority) {
      if (!GivesWayToClass(*giver, next)) continue;
    } else {
      if (n_left == 0 || PauseLeftUs(*giver, now_us) == 0) continue;
      if (!MayTake(*next.tenant, *giver->tenant, n_taken[giver->tenant], share)) continue;
      --n_left;
    }
    ++n_taken[giver->tenant];
    givers.push_back(giver);
  }
  return givers;
}

std::vector<Sequence*> Displacement::GiversForOverdue(const Sequence& next,
                                                      const RunningSequences& running,
                                                      int64_t now_us) const {
  const std::vector<Sequence*>& by_age = running.by_age();
  std::vector<Sequence*> givers;  // of lower classes, and of the tenant of `next`
  std::vector<Sequence*> others;  // of other tenants
  for (size_t i = by_age.size(); i-- > 1;) {
    Sequence* const giver = by_age[i];
    if (giver->held) continue;
    if (giver->priority != next.priority) {
      if (GivesWayToClass(*giver, next)) givers.push_back(giver);
    } else if (PauseLeftUs(*giver, now_us) > 0) {
      (giver->tenant == next.tenant ? givers : others).push_back(giver);
    }
  }
  givers.insert(givers.end(), others.begin(), others.end());
  // The pause of `next` ends, so one more sequence may pause at least.
  int32_t n_left = n_pauses_left() + 1;
  std::vector<Sequence*> allowed;
  for (Sequence* giver : givers) {
    if (giver->priority == next.priority && n_left-- <= 0) continue;
    allowed.push_back(giver);
  }
  return allowed;
}

Sequence* Displacement::FirstOverdue(int64_t now_us) const {
  Sequence* first = nullptr;
  for (Sequence* sequence : paused_) {
    if (sequence->pause_end_us > now_us) continue;
    if (first == nullptr || sequence->pause_end_us < first->pause_end_us) first = sequence;
  }
  return first;
}

int64_t Displacement::PauseLeftUs(const Sequence& running, int64_t now_us) {
  if (now_us - running.slot_since_us >= kShareUs) return kMaxPauseUs;
  return std::max<int64_t>(0, kMaxPauseUs - running.paused_us);
}

int32_t Displacement::n_pauses_left() const {
  return std::max(0, n_pauses_max_ - static_cast<int32_t>(paused_.size()));
}

void Displacement::BeginPause(Sequence* sequence, int64_t now_us) {
  CHECK_LT(sequence->paused_since_us, 0);
  const int64_t left_us = PauseLeftUs(*sequence, now_us);
  sequence->paused_us = kMaxPauseUs - left_us;
  sequence->paused_since_us = now_us;
  sequence->pause_end_us = now_us + left_us;
  paused_.push_back(sequence);
}

void Displacement::EndPause(Sequence* sequence, int64_t now_us) {
  if (sequence->paused_since_us < 0) return;
  sequence->paused_us += now_us - sequence->paused_since_us;
  sequence->paused_since_us = -1;
  paused_.erase(std::find(paused_.begin(), paused_.end(), sequence));
}

}  // namespace bora
