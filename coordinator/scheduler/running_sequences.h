// The slots and the sequences that have one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coordinator/scheduler/sequence.h"

namespace bora {

// Pure. Owned by the engine thread. Refers to sequences, which the scheduler owns.
//
// Invariants: by_age() is in ascending order of Ticket::age and holds exactly the sequences with
// slot >= 0; decoding() holds those of them that are not in their prefill, in ascending order of
// Sequence::last_step as of the last call of SortDecoding.
class RunningSequences {
 public:
  // All n_slots slots are free. REQUIRES: n_slots > 0.
  explicit RunningSequences(int32_t n_slots);

  // Gives the sequence the slot that was freed last. REQUIRES: a slot is free, and the sequence has
  // none; it is in its prefill.
  void Add(Sequence* sequence);
  // Takes the sequence's slot away, which is free at once. REQUIRES: the sequence has a slot.
  void Remove(Sequence* sequence);
  // The last token of the sequence's prefill is in a plan. REQUIRES: the sequence is in by_age().
  void BeginDecoding(Sequence* sequence) { decoding_.push_back(sequence); }
  // Restores the order of decoding() after a plan: sequences with a row in step_id go to the back.
  void SortDecoding(int64_t step_id);

  // The sequence that gives its blocks to `sequence`: the newest held one, or else the newest of
  // all; null if that is `sequence` itself. REQUIRES: `sequence` runs.
  Sequence* VictimFor(const Sequence& sequence) const;

  const std::vector<Sequence*>& by_age() const { return by_age_; }
  const std::vector<Sequence*>& decoding() const { return decoding_; }
  int32_t size() const { return static_cast<int32_t>(by_age_.size()); }
  int32_t n_free_slots() const { return static_cast<int32_t>(free_slots_.size()); }
  // Sequences in decoding() that are not held. Linear in their number.
  int32_t CountDecoding() const;
  // Prefill tokens of all sequences that no plan has had yet. Linear in the number of sequences.
  int64_t CountPrefillTokens() const;

 private:
  std::vector<int32_t> free_slots_;  // a stack; at first the lowest id is on top
  std::vector<Sequence*> by_age_;
  std::vector<Sequence*> decoding_;
};

}  // namespace bora
