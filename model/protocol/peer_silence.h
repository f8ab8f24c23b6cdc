// How long a peer that should be heard often has been silent, counted in the time in which this
// side listened. A process that was stopped, or that got no CPU, has heard nobody meanwhile, and
// that says nothing about its peers.
#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// Owned by one thread.
class PeerSilence {
 public:
  // Of the time between two looks at most `longest_gap` counts, > 0; look more often than that.
  PeerSilence(SteadyTime now, absl::Duration longest_gap)
      : last_look_(now), longest_gap_(longest_gap) {}

  void Heard(SteadyTime now) {
    last_look_ = now;
    length_ = absl::ZeroDuration();
  }

  // Returns the length of the silence until now.
  absl::Duration Look(SteadyTime now) {
    length_ += std::clamp(now - last_look_, absl::ZeroDuration(), longest_gap_);
    last_look_ = now;
    return length_;
  }

  // At the last look.
  absl::Duration length() const { return length_; }

 private:
  SteadyTime last_look_;
  absl::Duration longest_gap_;
  absl::Duration length_;
};

}  // namespace bora
