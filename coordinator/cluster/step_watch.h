// Notices that a step hangs: that the workers do not finish the oldest plan in time, although all
// of them are heard.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/cluster/cluster_options.h"

namespace bora {

// Measures the age of the oldest plan in flight. Only time counts in which every rank is heard and
// this process itself runs. Owned by the engine thread.
class StepWatch {
 public:
  // `options` outlives the watch.
  explicit StepWatch(const ClusterOptions& options) : options_(options) {}

  // A group has formed: no plan is in flight.
  void Reset() { n_in_flight_ = 0; }
  // A plan was sent to the group.
  void PlanSent(SteadyTime now) {
    if (n_in_flight_++ == 0) Begin(now);
  }
  // The oldest plan is done; the age counts from here for the next one. REQUIRES: n_in_flight() >
  // 0.
  void StepDone(SteadyTime now) {
    --n_in_flight_;
    Begin(now);
  }
  // Adds the time since the last Tick to the age if `all_heard`, at most one heartbeat_interval: a
  // longer gap is a pause of this process. Call several times a second.
  void Tick(SteadyTime now, bool all_heard) {
    if (all_heard) {
      age_ += std::clamp(now - std::max(last_tick_, oldest_begin_), absl::ZeroDuration(),
                         options_.heartbeat_interval);
    }
    last_tick_ = now;
  }
  // How long the oldest plan may take from the first stage to the last. `predicted`: its time as
  // the cost model predicts it; zero if unknown.
  absl::Duration Limit(absl::Duration predicted) const {
    if (predicted <= absl::ZeroDuration()) return options_.step_timeout;
    return std::min(options_.step_timeout,
                    options_.step_timeout_min + options_.step_timeout_predictions * predicted);
  }
  // Whether the oldest plan is older than Limit(predicted).
  bool Hangs(absl::Duration predicted) const { return n_in_flight_ > 0 && age_ > Limit(predicted); }
  // Plans that were sent and are not done.
  int32_t n_in_flight() const { return n_in_flight_; }

 private:
  void Begin(SteadyTime now) {
    oldest_begin_ = now;
    age_ = absl::ZeroDuration();
  }

  const ClusterOptions& options_;
  int32_t n_in_flight_ = 0;
  absl::Duration age_;       // of the oldest plan in flight, in time that counts
  SteadyTime oldest_begin_;  // when the oldest plan in flight was sent, or became the oldest
  SteadyTime last_tick_;
};

}  // namespace bora
