// Counts the messages of one worker that wait for the engine. Their number and their bytes are
// bounded, and the stream of a worker that exceeds a bound is closed: a worker that floods the
// engine's mailbox can delay the messages of other workers only by as much as its inbox holds.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace bora {

// Thread-safe. REQUIRES: a shared_ptr holds the inbox, because receipts keep it alive.
class WorkerInbox : public std::enable_shared_from_this<WorkerInbox> {
 public:
  // At most max_messages messages with at most max_bytes bytes together may wait.
  WorkerInbox(int64_t max_messages, int64_t max_bytes)
      : max_messages_(max_messages), max_bytes_(max_bytes) {}

  // Counts a message of n_bytes bytes as waiting until the returned receipt is destroyed. Returns
  // null, and counts nothing, if the message would exceed a bound.
  std::shared_ptr<void> Take(int64_t n_bytes) {
    absl::MutexLock lock(&mutex_);
    if (n_messages_ + 1 > max_messages_ || n_bytes_ + n_bytes > max_bytes_) return nullptr;
    ++n_messages_;
    n_bytes_ += n_bytes;
    // The receipt owns nothing: its deleter takes the message out of the counts.
    return std::shared_ptr<void>(this, [inbox = shared_from_this(), n_bytes](void*) {
      absl::MutexLock give_lock(&inbox->mutex_);
      --inbox->n_messages_;
      inbox->n_bytes_ -= n_bytes;
    });
  }

 private:
  const int64_t max_messages_;
  const int64_t max_bytes_;
  absl::Mutex mutex_;
  int64_t n_messages_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t n_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace bora
