// How a server ends: on SIGTERM and SIGINT at any point of its life, and, if asked for, together
// with its parent.
#pragma once

#include <sys/types.h>

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bora {

// Blocks SIGTERM and SIGINT in this thread and in all threads it starts, so that only StopSignals
// receives them. Also ignores SIGPIPE. Call first in main, before any thread starts.
void BlockStopSignals();

// Asks the kernel to send SIGTERM to this process when its parent ends. `parent` is the value of
// getppid() when main began. Returns false if the parent has ended already, in which case no signal
// will come. The parent's pid is compared with `parent`, not with 1: in a container the real parent
// may be 1, and orphans of a subreaper never get 1.
bool EndWithParent(pid_t parent);

// The thread that receives the stop signals. Before OnStop, the first signal ends the process at
// once with code 0: nothing is served yet, and start-up may wait for something that never comes (a
// name server, a disk). After OnStop, the first signal calls the stop function and a second one
// ends the process at once with code 128 + its number. Thread-safe. REQUIRES: never destroyed,
// since the detached thread uses it until the process ends.
class StopSignals {
 public:
  // Starts the thread. REQUIRES: BlockStopSignals() was called.
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // From now on the first signal calls `stop`, once, on the signal thread. If the process is still
  // alive `limit` after the signal, it hangs: it is ended with code 70 (EX_SOFTWARE).
  void OnStop(std::function<void()> stop, absl::Duration limit);

 private:
  void Run();

  absl::Mutex mutex_;
  std::function<void()> stop_ ABSL_GUARDED_BY(mutex_);
  absl::Duration limit_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
