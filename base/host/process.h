// How a server ends: on SIGTERM and SIGINT in whatever state it is, and with its parent if it was
// asked to.
#pragma once

#include <sys/types.h>

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bora {

// Blocks SIGTERM and SIGINT in this thread and in all that it starts, so that StopSignals alone
// takes them, and ignores SIGPIPE. Call first in main, before any thread starts.
void BlockStopSignals();

// From now on the kernel sends SIGTERM when the parent ends. `parent` is what getppid() said when
// main began; false if that process is gone already. (Its pid is compared, not 1: in a container
// the parent may well be 1, and orphans of a subreaper never get 1.)
bool EndWithParent(pid_t parent);

// A thread that takes the stop signals. Until OnStop the first one ends the process with code 0:
// nothing is served yet, and what start is waiting for (a name server, a disk) may never come. A
// second one always ends it, with code 128 + its number. Thread-safe. Never destroyed while the
// process lives: the thread waits until the end.
class StopSignals {
 public:
  // After BlockStopSignals.
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // From now on the first signal calls `stop`, on the signal thread. If the process has not ended
  // `limit` later something hangs: it ends with code 70 (EX_SOFTWARE).
  void OnStop(std::function<void()> stop, absl::Duration limit);

 private:
  void Run();

  absl::Mutex mutex_;
  std::function<void()> stop_ ABSL_GUARDED_BY(mutex_);
  absl::Duration limit_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
