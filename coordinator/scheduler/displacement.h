// Which running sequences give their slots and blocks to the next one in the queue, and for how
// long a sequence may pause because of that.
//
// A held sequence gives way to anybody. Apart from that, a running sequence gives way to an older
// one of a higher priority class, and to one of the same class whose tenant has had less than the
// giver's, as long as both tenants' shares of the running sequences allow it.
//
// Pauses. A sequence that gave its slot to another one of its class pauses, for kMaxPauseUs in all;
// then it is overdue: next in the queue before all others of its class, and entitled to the slot of
// its own tenant's newest sequence, or else of another tenant's. From then on it gives its slot to
// no sequence of its class until it has run for kShareUs. At most one sixth as many sequences pause
// as there are slots, as each may pause for one sixth of the time: so all can come back in time.
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
  // REQUIRES: n_slots > 0, the slots of the group.
  explicit Displacement(int32_t n_slots);

  // The running sequences that give way to `next`, in the order in which they do: held ones first,
  // then from the newest on, other tenants' last if `next` is overdue. The oldest running sequence
  // never gives way unless it is held. REQUIRES: `next` is in `queue`.
  std::vector<Sequence*> GiversFor(const Sequence& next, const RunningSequences& running,
                                   const FairQueue& queue, int64_t now_us) const;

  // The sequence whose pause should have ended first of all pauses that should have ended by
  // now_us; null for none.
  Sequence* FirstOverdue(int64_t now_us) const;

  // The sequence's pause begins. REQUIRES: it still has its slot, and does not pause.
  void BeginPause(Sequence* sequence, int64_t now_us);
  // The sequence's pause ends, if it pauses.
  void EndPause(Sequence* sequence, int64_t now_us);

 private:
  // Givers for a `next` whose pause is overdue, held ones left out.
  std::vector<Sequence*> GiversForOverdue(const Sequence& next, const RunningSequences& running,
                                          int64_t now_us) const;
  // Microseconds that a running sequence may pause if its pause begins now.
  static int64_t PauseLeftUs(const Sequence& running, int64_t now_us);
  // How many more sequences may pause.
  int32_t n_pauses_left() const;

  const int32_t n_pauses_max_;
  std::vector<Sequence*> paused_;
};

}  // namespace bora
