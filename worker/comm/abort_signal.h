// A one-way switch with a reason, which also wakes poll(): other threads end a rank's wait with it.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/host/unique_fd.h"

namespace bora {

// Thread-safe. This class and the others of this folder use std::mutex instead of absl::Mutex: the
// packaged Abseil is not instrumented, so ThreadSanitizer would not see an absl::Mutex.
class AbortSignal {
 public:
  // `event_fd` comes from NewEventFd().
  explicit AbortSignal(UniqueFd event_fd) : event_fd_(std::move(event_fd)) {}

  // Raises the signal for good. status() keeps the message of the first `reason`, as ABORTED.
  // REQUIRES: `reason` is not OK.
  void Raise(const absl::Status& reason);

  // Cheap enough for a loop that spins.
  bool raised() const { return raised_.load(std::memory_order_acquire); }
  // A descriptor to poll for POLLIN: readable from Raise() on, for good.
  int fd() const { return event_fd_.get(); }
  // ABORTED with the reason, or OK if the signal is not raised.
  absl::Status status() const;

 private:
  const UniqueFd event_fd_;
  std::atomic<bool> raised_ = false;
  mutable std::mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bora
