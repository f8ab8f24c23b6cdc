// Notices that a step hangs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/cluster/cluster_options.h"

namespace bora {

// The age of the oldest plan in flight, counted only while every rank is heard and this process
// itself runs. Owned by the engine thread.
class StepWatch {
 public:
  // `options` outlives it.
  explicit StepWatch(const ClusterOptions& options) : options_(options) {}

  // A group has formed: nothing is in flight.
  void Reset() { n_in_flight_ = 0; }
  void PlanSent(SteadyTime now) {
    if (n_in_flight_++ == 0) Begin(now);
  }
  // REQUIRES: n_in_flight() > 0.
  void StepDone(SteadyTime now) {
    --n_in_flight_;
    Begin(now);
  }
  // Called several times a second. A pause of this process counts as one heartbeat_interval.
  void Tick(SteadyTime now, bool all_heard) {
    if (all_heard) {
      age_ += std::clamp(now - std::max(last_tick_, oldest_begin_), absl::ZeroDuration(),
                         options_.heartbeat_interval);
    }
    last_tick_ = now;
  }
  // The time that the oldest plan may take from the first stage to the last. predicted: by the cost
  // model; zero if it knows nothing.
  absl::Duration Limit(absl::Duration predicted) const {
    if (predicted <= absl::ZeroDuration()) return options_.step_timeout;
    return std::min(options_.step_timeout,
                    options_.step_timeout_min + options_.step_timeout_predictions * predicted);
  }
  bool Hangs(absl::Duration predicted) const { return n_in_flight_ > 0 && age_ > Limit(predicted); }
  int32_t n_in_flight() const { return n_in_flight_; }

 private:
  void Begin(SteadyTime now) {
    oldest_begin_ = now;
    age_ = absl::ZeroDuration();
  }

  const ClusterOptions& options_;
  int32_t n_in_flight_ = 0;  // plans
  absl::Duration age_;
  SteadyTime oldest_begin_;  // when the oldest plan in flight was sent, or became the oldest
  SteadyTime last_tick_;
};

}  // namespace bora
