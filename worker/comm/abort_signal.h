// A one-way switch with a reason that also wakes poll(): how other threads end a rank's wait.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/host/unique_fd.h"

namespace bora {

// Thread-safe. Here and in the other classes of this folder std::mutex instead of absl::Mutex: the
// packaged Abseil is not instrumented, so ThreadSanitizer would not see the latter.
class AbortSignal {
 public:
  // The descriptor comes from NewEventFd().
  explicit AbortSignal(UniqueFd event_fd) : event_fd_(std::move(event_fd)) {}

  // Keeps the first reason; its code becomes ABORTED.
  void Raise(const absl::Status& reason);

  bool raised() const { return raised_.load(std::memory_order_acquire); }
  // Readable from Raise() on; it is never drained.
  int fd() const { return event_fd_.get(); }
  // ABORTED with the reason, or OK when not raised.
  absl::Status status() const;

 private:
  const UniqueFd event_fd_;
  std::atomic<bool> raised_ = false;
  mutable std::mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
