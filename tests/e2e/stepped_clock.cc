// LD_PRELOAD library: the process sees a system clock that is off by what the file
// $BORA_CLOCK_OFFSET_FILE holds (int64_t nanoseconds, read anew each time), as if somebody had set
// the clock whenever the file changes. The steady clock is the host's.
//
// Sleeps until a moment of the system clock end when the shifted clock gets there, as the kernel
// has it: after a step forward at once, after a step back as much later.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
// How late a step is noticed by a thread that sleeps.
constexpr int64_t kSliceNs = 20'000'000;

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

int64_t OffsetNs() {
  static const volatile int64_t* const offset = [] {
    static const int64_t none = 0;
    const char* path = getenv("BORA_CLOCK_OFFSET_FILE");
    const int fd = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void* mapped = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    return mapped == MAP_FAILED ? &none : static_cast<const int64_t*>(mapped);
  }();
  return *offset;
}

int64_t ToNs(const timespec& time) { return time.tv_sec * kNsPerSecond + time.tv_nsec; }

timespec ToTimespec(int64_t ns) {
  return {static_cast<time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
}

int64_t TrueNowNs() {
  static const auto next = Next<int (*)(clockid_t, timespec*)>("clock_gettime");
  timespec now;
  next(CLOCK_REALTIME, &now);
  return ToNs(now);
}

using Syscall = long (*)(long, ...);

// A futex wait until `deadline` of the shifted clock.
long FutexWait(Syscall next, const long arguments[6], const timespec& deadline) {
  while (true) {
    const int64_t now_ns = TrueNowNs();
    const int64_t end_ns = ToNs(deadline) - OffsetNs();
    const int64_t slice_ns = end_ns < now_ns + kSliceNs ? end_ns : now_ns + kSliceNs;
    const timespec slice = ToTimespec(slice_ns > 0 ? slice_ns : 0);
    const long result = next(SYS_futex, arguments[0], arguments[1], arguments[2], &slice,
                             arguments[4], arguments[5]);
    if (result == 0 || errno != ETIMEDOUT || slice_ns == end_ns) return result;
  }
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) {
  static const auto next = Next<int (*)(clockid_t, timespec*)>("clock_gettime");
  const int result = next(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    *time = ToTimespec(ToNs(*time) + OffsetNs());
  }
  return result;
}

int gettimeofday(timeval* time, void*) {
  const int64_t now_ns = TrueNowNs() + OffsetNs();
  *time = {static_cast<time_t>(now_ns / kNsPerSecond), now_ns % kNsPerSecond / 1000};
  return 0;
}

time_t time(time_t* out) {
  const time_t now = (TrueNowNs() + OffsetNs()) / kNsPerSecond;
  if (out != nullptr) *out = now;
  return now;
}

// Abseil calls futexes through this, and gRPC asks for the time.
long syscall(long number, ...) {
  static const auto next = Next<Syscall>("syscall");
  long arguments[6];
  va_list list;
  va_start(list, number);
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  const auto* timeout = reinterpret_cast<const timespec*>(arguments[3]);
  if (number == SYS_futex && (arguments[1] & FUTEX_CLOCK_REALTIME) != 0 && timeout != nullptr) {
    return FutexWait(next, arguments, *timeout);
  }
  if (number == SYS_clock_gettime) {
    return clock_gettime(static_cast<clockid_t>(arguments[0]),
                         reinterpret_cast<timespec*>(arguments[1]));
  }
  return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
              arguments[5]);
}

}  // extern "C"
