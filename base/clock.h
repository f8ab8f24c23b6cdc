// Time inside a process. Everything that measures a span (liveness, ticks, deadlines, timeouts of
// waits) uses the steady clock, which no operator and no NTP daemon sets: if the system clock is
// set forward by a minute, a worker must not look silent for a minute. Wall time is only for time
// stamps that people read. A deadline that arrives in wall time is converted to SteadyTime once,
// where it arrives; the two types do not mix.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "absl/time/time.h"

namespace bora {

// A point in time on the host's steady clock. Default constructed: the clock's zero (on Linux about
// the start of the host). Immutable value; comparable only with times of the same host.
class SteadyTime {
 public:
  constexpr SteadyTime() = default;
  static constexpr SteadyTime InfiniteFuture() { return SteadyTime(absl::InfiniteDuration()); }
  static constexpr SteadyTime InfinitePast() { return SteadyTime(-absl::InfiniteDuration()); }

  // Time since the clock's zero; infinite for InfiniteFuture().
  constexpr absl::Duration since_beginning() const { return since_beginning_; }

  friend SteadyTime operator+(SteadyTime time, absl::Duration d) {
    return SteadyTime(time.since_beginning_ + d);
  }
  friend SteadyTime operator-(SteadyTime time, absl::Duration d) {
    return SteadyTime(time.since_beginning_ - d);
  }
  friend absl::Duration operator-(SteadyTime a, SteadyTime b) {
    return a.since_beginning_ - b.since_beginning_;
  }
  SteadyTime& operator+=(absl::Duration d) { return *this = *this + d; }

  friend constexpr bool operator==(SteadyTime a, SteadyTime b) {
    return a.since_beginning_ == b.since_beginning_;
  }
  friend constexpr bool operator<(SteadyTime a, SteadyTime b) {
    return a.since_beginning_ < b.since_beginning_;
  }
  friend constexpr bool operator>(SteadyTime a, SteadyTime b) { return b < a; }
  friend constexpr bool operator<=(SteadyTime a, SteadyTime b) { return !(b < a); }
  friend constexpr bool operator>=(SteadyTime a, SteadyTime b) { return !(a < b); }

 private:
  constexpr explicit SteadyTime(absl::Duration since_beginning)
      : since_beginning_(since_beginning) {}

  absl::Duration since_beginning_;
};

// The current time of CLOCK_MONOTONIC. Thread-safe.
inline SteadyTime SteadyNow() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return SteadyTime() + absl::DurationFromTimespec(now);
}

// The clock that an object reads: SteadyNow in production, a clock set by hand in tests. Calls are
// thread-safe.
using SteadyClock = std::function<SteadyTime()>;

// Converts a wall time, for example a gRPC deadline, with the offset between the two clocks at this
// moment. time_point::max() becomes InfiniteFuture().
inline SteadyTime FromSystemTime(std::chrono::system_clock::time_point time) {
  if (time == std::chrono::system_clock::time_point::max()) return SteadyTime::InfiniteFuture();
  // Not absl::Now, which may follow a step of the clock some seconds late.
  return SteadyNow() + absl::FromChrono(time - std::chrono::system_clock::now());
}

// Converts a deadline for a call of gRPC, which takes wall time and turns it back into steady time
// at once. A deadline more than a year away becomes a year, so that the sum does not overflow;
// InfiniteFuture() becomes time_point::max().
inline std::chrono::system_clock::time_point ToSystemTime(SteadyTime time) {
  if (time == SteadyTime::InfiniteFuture()) return std::chrono::system_clock::time_point::max();
  return std::chrono::system_clock::now() +
         absl::ToChronoMicroseconds(std::min(time - SteadyNow(), absl::Hours(24 * 365)));
}

}  // namespace bora
