#include "base/host/process.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace bora {
namespace {

// EX_SOFTWARE of sysexits.h.
constexpr int kExitHung = 70;

sigset_t StopSignalSet() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Waits for a stop signal and returns its number; 0 if `deadline` has passed. Loops, since
// sigtimedwait may be interrupted, and since one wait is limited to a day (an infinite timespec is
// not possible).
int AwaitSignal(SteadyTime deadline) {
  const sigset_t signals = StopSignalSet();
  while (true) {
    const absl::Duration left =
        std::clamp(deadline - SteadyNow(), absl::ZeroDuration(), absl::Hours(24));
    const timespec timeout = absl::ToTimespec(left);
    const int signal_number = sigtimedwait(&signals, nullptr, &timeout);
    if (signal_number > 0) return signal_number;
    if (errno == EAGAIN && SteadyNow() >= deadline) return 0;
  }
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = StopSignalSet();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

bool EndWithParent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  // PR_SET_PDEATHSIG reports only a parent that ends after the call, so a parent gone before must
  // be noticed here.
  return getppid() == parent;
}

StopSignals::StopSignals() {
  std::thread([this] { Run(); }).detach();
}

void StopSignals::OnStop(std::function<void()> stop, absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  stop_ = std::move(stop);
  limit_ = limit;
}

void StopSignals::Run() {
  pthread_setname_np(pthread_self(), "bora-signals");
  const int first = AwaitSignal(SteadyTime::InfiniteFuture());
  std::function<void()> stop;
  SteadyTime deadline;
  {
    absl::MutexLock lock(&mutex_);
    stop = stop_;
    deadline = SteadyNow() + limit_;
  }
  LogInfo("stopping", {{"signal", first}});
  if (stop == nullptr) {
    std::fflush(nullptr);
    FlushLog();
    _exit(0);
  }
  stop();
  const int second = AwaitSignal(deadline);
  if (second != 0) {
    LogWarning("second signal: exiting at once", {{"signal", second}});
    FlushLog();
    _exit(128 + second);
  }
  LogError("the process did not end in the time that it had; exiting", {});
  FlushLog();
  _exit(kExitHung);
}

}  // namespace bora
