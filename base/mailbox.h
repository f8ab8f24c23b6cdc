// Bounded multi-producer, single-consumer queue: the only way threads hand work to the engine
// thread and the rank thread.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/steady_cond_var.h"

namespace bora {

// Thread-safe. Items pushed by one thread come out in the order of its pushes.
template <typename T>
class Mailbox {
 public:
  // Holds at most `capacity` items, > 0.
  explicit Mailbox(size_t capacity) : capacity_(capacity) { CHECK_GT(capacity, size_t{0}); }

  // Appends the item. False, with the item left untouched, when the mailbox is full or closed.
  bool TryPush(T&& item) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || items_.size() >= capacity_) return false;
    items_.push_back(std::move(item));
    WakeLocked();
    return true;
  }

  // Appends the item even when the mailbox is full: for messages whose number is bounded elsewhere
  // (one per worker, step or open request). False only after Close().
  bool PushUnbounded(T&& item) {
    absl::MutexLock lock(&mutex_);
    if (closed_) return false;
    items_.push_back(std::move(item));
    WakeLocked();
    return true;
  }

  // Waits until there is an item, the mailbox is closed or `deadline` has passed, then takes
  // everything there is, oldest first. Empty means deadline or closed.
  std::vector<T> DrainUntil(SteadyTime deadline) {
    absl::MutexLock lock(&mutex_);
    AwaitReadyLocked(deadline);
    std::vector<T> out(std::make_move_iterator(items_.begin()),
                       std::make_move_iterator(items_.end()));
    items_.clear();
    return out;
  }

  // Takes one item, waiting for it; nothing when the mailbox is closed and empty or `deadline` has
  // passed.
  std::optional<T> PopUntil(SteadyTime deadline) {
    absl::MutexLock lock(&mutex_);
    AwaitReadyLocked(deadline);
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  // Refuses further pushes and wakes the consumer; items already there can still be taken.
  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    WakeLocked();
  }

  bool closed() const {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }

 private:
  bool ReadyLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return closed_ || !items_.empty(); }

  void AwaitReadyLocked(SteadyTime deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++n_waiting_;
    while (!ReadyLocked() && SteadyNow() < deadline) ready_.WaitUntil(&mutex_, deadline);
    --n_waiting_;
  }

  // Under the lock, because a consumer may destroy the mailbox as soon as it has the item.
  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (n_waiting_ == 0) return;
    if (closed_) {
      ready_.SignalAll();
    } else {
      ready_.Signal();
    }
  }

  const size_t capacity_;
  mutable absl::Mutex mutex_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;  // consumers
  SteadyCondVar ready_;
};

}  // namespace bora
