#include "coordinator/scheduler/running_sequences.h"

#include <algorithm>

#include "base/check.h"

namespace bora {

RunningSequences::RunningSequences(int32_t n_slots) {
  CHECK_GT(n_slots, 0);
  for (int32_t slot = n_slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

void RunningSequences::Add(Sequence* sequence) {
  CHECK(!free_slots_.empty());
  CHECK_LT(sequence->slot, 0);
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  by_age_.insert(
      std::upper_bound(by_age_.begin(), by_age_.end(), sequence,
                       [](const Sequence* a, const Sequence* b) { return a->age < b->age; }),
      sequence);
  ++sequence->tenant->n_running;
}

void RunningSequences::Remove(Sequence* sequence) {
  CHECK_GE(sequence->slot, 0);
  free_slots_.push_back(sequence->slot);
  sequence->slot = -1;
  by_age_.erase(std::find(by_age_.begin(), by_age_.end(), sequence));
  --sequence->tenant->n_running;
  if (!sequence->InPrefill()) {
    decoding_.erase(std::find(decoding_.begin(), decoding_.end(), sequence));
  }
}

void RunningSequences::SortDecoding(int64_t step_id) {
  std::stable_partition(decoding_.begin(), decoding_.end(), [step_id](const Sequence* sequence) {
    return sequence->last_step < step_id;
  });
}

Sequence* RunningSequences::VictimFor(const Sequence& sequence) const {
  const auto held = std::find_if(by_age_.rbegin(), by_age_.rend(), [&](const Sequence* other) {
    return other->held && other != &sequence;
  });
  if (held != by_age_.rend()) return *held;
  return by_age_.back() == &sequence ? nullptr : by_age_.back();
}

int32_t RunningSequences::CountDecoding() const {
  return static_cast<int32_t>(
      std::count_if(decoding_.begin(), decoding_.end(),
                    [](const Sequence* sequence) { return !sequence->held; }));
}

int64_t RunningSequences::CountPrefillTokens() const {
  int64_t n_tokens = 0;
  for (const Sequence* sequence : by_age_) n_tokens += sequence->n_prefill_left();
  return n_tokens;
}

}  // namespace bora
