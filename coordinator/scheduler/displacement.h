// Which running sequences give their slots and blocks to the next one in the queue, and for how
// long a sequence may pause because of that.
//
// A held sequence (one whose client does not read) gives way to every other sequence. Any other
// running sequence gives way in two cases: to an older sequence of a higher priority class; and to
// a sequence of its own class whose tenant has had less service than its own tenant, unless the
// taker's tenant would then exceed its share of the running sequences, or its own tenant fall below
// its share.
//
// Pauses. A sequence that gave its slot to another sequence of its class pauses, for at most
// kMaxPauseUs in all. Then it is overdue: it comes before all others of its class in the queue, and
// may take the slot of its own tenant's newest sequence, or else of another tenant's newest. From
// then on it gives its slot to no sequence of its class until it has run for kShareUs. So a
// sequence may pause for one sixth of the time, kMaxPauseUs of kMaxPauseUs + kShareUs; and at most
// one sixth as many sequences pause at once as there are slots, so that all of them get a slot back
// in time.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/scheduler/fair_queue.h"
#include "coordinator/scheduler/running_sequences.h"
#include "coordinator/scheduler/sequence.h"

namespace bora {

// The longest time that a sequence pauses, in one pause or in several.
inline constexpr int64_t kMaxPauseUs = 2'000'000;
// How long a sequence must run before it may pause for kMaxPauseUs again.
inline constexpr int64_t kShareUs = 5 * kMaxPauseUs;

// Pure: the time is an argument, in microseconds on the scheduler's clock. Owned by the engine
// thread. Refers to the sequences that pause; all of them wait in the queue.
class Displacement {
 public:
  // n_slots is the number of slots of the group. REQUIRES: n_slots > 0.
  explicit Displacement(int32_t n_slots);

  // Returns the running sequences that give way to `next`, in the order in which they should: held
  // sequences first, then the others from the newest on. If `next` is overdue, sequences of its
  // class that belong to other tenants come last. The oldest running sequence never gives way
  // unless it is held. REQUIRES: `next` is in `queue`.
  std::vector<Sequence*> GiversFor(const Sequence& next, const RunningSequences& running,
                                   const FairQueue& queue, int64_t now_us) const;

  // Returns the overdue sequence that has been overdue for the longest time; null if none is. A
  // sequence is overdue if its pause should have ended by now_us.
  Sequence* FirstOverdue(int64_t now_us) const;

  // Begins a pause of `sequence`. REQUIRES: it still has its slot, and does not pause (CHECK).
  void BeginPause(Sequence* sequence, int64_t now_us);
  // Ends the pause of `sequence`; does nothing if it does not pause.
  void EndPause(Sequence* sequence, int64_t now_us);

 private:
  // GiversFor for an overdue `next`, without the held sequences.
  std::vector<Sequence*> GiversForOverdue(const Sequence& next, const RunningSequences& running,
                                          int64_t now_us) const;
  // Returns for how many microseconds a running sequence may pause if its pause begins now.
  static int64_t PauseLeftUs(const Sequence& running, int64_t now_us);
  // How many more sequences may pause at the same time.
  int32_t n_pauses_left() const;

  const int32_t n_pauses_max_;     // sequences that may pause at the same time
  std::vector<Sequence*> paused_;  // in the order in which their pauses began
};

}  // namespace bora
