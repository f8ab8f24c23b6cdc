// Measures how long a peer that sends heartbeats has been silent, counting only time in which this
// process was able to listen. A process that was stopped, or that got no CPU, receives nothing in
// that time; its peers must not be declared dead for it.
#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {

// The silence of one peer. The owner calls Heard for each message of the peer, and Look regularly.
// Owned by one thread; times are arguments and must not decrease.
class PeerSilence {
 public:
  // Starts with a silence of 0 at `now`. `longest_gap` > 0: of the time between two calls of Look
  // at most this much counts as silence, since a longer gap means that this process stood still.
  // The owner must call Look more often than that, or the silence is underestimated.
  PeerSilence(SteadyTime now, absl::Duration longest_gap)
      : last_look_(now), longest_gap_(longest_gap) {}

  // The peer sent something: the silence begins anew at `now`.
  void Heard(SteadyTime now) {
    last_look_ = now;
    length_ = absl::ZeroDuration();
  }

  // Adds the time since the last call, at most longest_gap, and returns the length of the silence.
  absl::Duration Look(SteadyTime now) {
    length_ += std::clamp(now - last_look_, absl::ZeroDuration(), longest_gap_);
    last_look_ = now;
    return length_;
  }

  // The length of the silence at the last call of Look or Heard.
  absl::Duration length() const { return length_; }

 private:
  SteadyTime last_look_;  // last call of Look or Heard
  absl::Duration longest_gap_;
  absl::Duration length_;  // counted silence
};

}  // namespace bora
