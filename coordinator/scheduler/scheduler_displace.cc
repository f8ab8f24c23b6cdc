// Who gives way to whom, and for how long; see scheduler.h.
#include <algorithm>

#include "base/check.h"
#include "coordinator/scheduler/scheduler.h"

namespace bora {

bool Scheduler::MayDisplace(const Sequence& next, const Sequence& running, int32_t n_taken) const {
  if (next.priority != running.priority) {
    return next.priority < running.priority && next.age < running.age;
  }
  const Tenant& taker = *next.tenant;
  const Tenant& giver = *running.tenant;
  if (&taker == &giver || taker.virtual_tokens >= giver.virtual_tokens) return false;
  if (PauseLeftUs(running) == 0) return false;
  const auto share = [this](const Tenant& tenant) {
    return std::max(1.0, queue_.Share(tenant) * n_running());
  };
  return taker.n_running + 1 <= share(taker) && giver.n_running - n_taken - 1 >= share(giver);
}

std::vector<Scheduler::Sequence*> Scheduler::GiversFor(const Sequence& next) const {
  std::vector<Sequence*> givers;
  // A sequence whose client does not read needs no slot now.
  for (size_t i = running_.size(); i-- > 0;) {
    if (running_[i]->held) givers.push_back(running_[i]);
  }
  if (&next == FirstOverdue()) {
    const std::vector<Sequence*> more = GiversForPaused(next);
    givers.insert(givers.end(), more.begin(), more.end());
    return givers;
  }
  absl::flat_hash_map<const Tenant*, int32_t> n_taken;
  int32_t n_pauses_left = PausesLeft();
  // The oldest stays.
  for (size_t i = running_.size(); i-- > 1;) {
    Sequence* running = running_[i];
    const bool pauses = running->priority == next.priority;
    if (running->held || (pauses && n_pauses_left == 0)) continue;
    if (!MayDisplace(next, *running, n_taken[running->tenant])) continue;
    ++n_taken[running->tenant];
    n_pauses_left -= pauses ? 1 : 0;
    givers.push_back(running);
  }
  return givers;
}

std::vector<Scheduler::Sequence*> Scheduler::GiversForPaused(const Sequence& next) const {
  std::vector<Sequence*> givers;
  std::vector<Sequence*> others;
  for (size_t i = running_.size(); i-- > 1;) {
    Sequence* running = running_[i];
    if (running->held) continue;
    if (running->priority != next.priority) {
      if (MayDisplace(next, *running, 0)) givers.push_back(running);
    } else if (PauseLeftUs(*running) > 0) {
      (running->tenant == next.tenant ? givers : others).push_back(running);
    }
  }
  givers.insert(givers.end(), others.begin(), others.end());
  // The pause of `next` ends, so that there is room for one more at least.
  int32_t n_pauses_left = PausesLeft() + 1;
  std::vector<Sequence*> allowed;
  for (Sequence* giver : givers) {
    if (giver->priority == next.priority && n_pauses_left-- <= 0) continue;
    allowed.push_back(giver);
  }
  return allowed;
}

void Scheduler::MakeRoomForNext(StepPlan* plan) {
  if (queue_.empty()) return;
  const Sequence& next = *NextInQueue();
  bool needs_slot = free_slots_.empty();
  const bool is_blocked = blocked_handle_ == next.spec.handle;
  if (next.n_rows_in_flight > 0 || (!needs_slot && !is_blocked)) return;
  const std::vector<Sequence*> givers = GiversFor(next);
  if (givers.empty()) return;
  if (!is_blocked) RememberBlocked(next, FindNeeds(next).n_taken);
  int64_t n_missing = n_blocked_needs_ - (blocks_.n_available() - BlocksDue());
  const bool needs_blocks = n_missing > 0;
  size_t n_givers = 0;
  for (; n_givers < givers.size() && (needs_slot || n_missing > 0); ++n_givers) {
    const std::vector<int32_t>& block_ids = givers[n_givers]->block_ids;
    needs_slot = false;
    n_missing -= std::count_if(block_ids.begin(), block_ids.end(),
                               [this](int32_t id) { return blocks_.n_holders(id) == 1; });
  }
  if (needs_slot || n_missing > 0) return;  // it would be in vain
  for (size_t i = 0; i < n_givers; ++i) {
    if (!givers[i]->held && givers[i]->priority == next.priority) BeginPause(givers[i]);
    Preempt(givers[i], plan);
  }
  if (needs_blocks) ExpectGrowth();
}

Scheduler::Sequence* Scheduler::NextInQueue() const {
  Sequence* const front = static_cast<Sequence*>(queue_.Front());
  Sequence* const overdue = FirstOverdue();
  return overdue != nullptr && overdue->priority <= front->priority ? overdue : front;
}

Scheduler::Sequence* Scheduler::FirstOverdue() const {
  Sequence* first = nullptr;
  for (Sequence* sequence : paused_) {
    if (sequence->pause_end_us > now_us_) continue;
    if (first == nullptr || sequence->pause_end_us < first->pause_end_us) first = sequence;
  }
  return first;
}

int64_t Scheduler::PauseLeftUs(const Sequence& running) const {
  if (now_us_ - running.slot_since_us >= kShareUs) return kMaxPauseUs;
  return std::max<int64_t>(0, kMaxPauseUs - running.paused_us);
}

int32_t Scheduler::PausesLeft() const {
  // Of kMaxPauseUs + kShareUs each may pause for kMaxPauseUs.
  constexpr int32_t kSlotsForAPause = (kMaxPauseUs + kShareUs) / kMaxPauseUs;
  const int32_t n_max = std::max(1, options_.limits.max_num_seqs / kSlotsForAPause);
  return std::max(0, n_max - static_cast<int32_t>(paused_.size()));
}

void Scheduler::BeginPause(Sequence* sequence) {
  CHECK_LT(sequence->paused_since_us, 0);
  const int64_t left_us = PauseLeftUs(*sequence);
  sequence->paused_us = kMaxPauseUs - left_us;
  sequence->paused_since_us = now_us_;
  sequence->pause_end_us = now_us_ + left_us;
  paused_.push_back(sequence);
}

void Scheduler::EndPause(Sequence* sequence) {
  if (sequence->paused_since_us < 0) return;
  sequence->paused_us += now_us_ - sequence->paused_since_us;
  sequence->paused_since_us = -1;
  paused_.erase(std::find(paused_.begin(), paused_.end(), sequence));
}

}  // namespace bora
