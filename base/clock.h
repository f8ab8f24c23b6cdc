// Time inside a process. Whatever measures a span (liveness, ticks, deadlines, limits of waits)
// runs on the steady clock, which nobody sets: a step of the system clock must not look like
// silence. Wall time is for stamps that people read. A deadline that comes from outside in wall
// time becomes steady once, where it comes in; the types do not mix.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "absl/time/time.h"

namespace bora {

// A moment on the host's steady clock. The default is the clock's beginning. Immutable value.
class SteadyTime {
 public:
  constexpr SteadyTime() = default;
  static constexpr SteadyTime InfiniteFuture() { return SteadyTime(absl::InfiniteDuration()); }
  static constexpr SteadyTime InfinitePast() { return SteadyTime(-absl::InfiniteDuration()); }

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

// CLOCK_MONOTONIC.
inline SteadyTime SteadyNow() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return SteadyTime() + absl::DurationFromTimespec(now);
}

// What an object that measures spans is given: SteadyNow, or a test's own. Thread-safe.
using SteadyClock = std::function<SteadyTime()>;

// A time on the system clock as it is set now, as gRPC gives deadlines. max() never comes.
inline SteadyTime FromSystemTime(std::chrono::system_clock::time_point time) {
  if (time == std::chrono::system_clock::time_point::max()) return SteadyTime::InfiniteFuture();
  // Not absl::Now, which may follow a step of the clock some seconds late.
  return SteadyNow() + absl::FromChrono(time - std::chrono::system_clock::now());
}

// For gRPC's calls, which go back to the steady clock at once.
inline std::chrono::system_clock::time_point ToSystemTime(SteadyTime time) {
  if (time == SteadyTime::InfiniteFuture()) return std::chrono::system_clock::time_point::max();
  return std::chrono::system_clock::now() +
         absl::ToChronoMicroseconds(std::min(time - SteadyNow(), absl::Hours(24 * 365)));
}

}  // namespace bora
