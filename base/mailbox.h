// A bounded queue with many producers. Other threads hand work to the engine thread and to the rank
// thread only through a mailbox.
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

// A queue of items of type T. Thread-safe: any thread may push, any thread may take. Items pushed
// by one thread are taken in the order of its pushes.
template <typename T>
class Mailbox {
 public:
  // TryPush accepts items while fewer than `capacity` are queued. REQUIRES: capacity > 0.
  explicit Mailbox(size_t capacity) : capacity_(capacity) { CHECK_GT(capacity, size_t{0}); }

  // Appends the item, wakes a waiting consumer and returns true. Returns false, and leaves `item`
  // untouched, if the mailbox is full or closed. Never waits for room.
  bool TryPush(T&& item) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || items_.size() >= capacity_) return false;
    items_.push_back(std::move(item));
    WakeLocked();
    return true;
  }

  // Appends the item even if the mailbox is full, for messages whose number is bounded elsewhere
  // (one per worker, step or open request). Returns false, and leaves `item` untouched, only after
  // Close().
  bool PushUnbounded(T&& item) {
    absl::MutexLock lock(&mutex_);
    if (closed_) return false;
    items_.push_back(std::move(item));
    WakeLocked();
    return true;
  }

  // Waits until there is an item, the mailbox is closed or `deadline` has passed. Then removes and
  // returns all items, oldest first. An empty result means that the deadline has passed or that the
  // mailbox is closed; closed() tells which.
  std::vector<T> DrainUntil(SteadyTime deadline) {
    absl::MutexLock lock(&mutex_);
    AwaitReadyLocked(deadline);
    std::vector<T> out(std::make_move_iterator(items_.begin()),
                       std::make_move_iterator(items_.end()));
    items_.clear();
    return out;
  }

  // Waits like DrainUntil, then removes and returns the oldest item; nullopt if there is none,
  // since the deadline has passed or the mailbox is closed.
  std::optional<T> PopUntil(SteadyTime deadline) {
    absl::MutexLock lock(&mutex_);
    AwaitReadyLocked(deadline);
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  // Refuses further pushes and wakes every waiting consumer. Items already queued can still be
  // taken.
  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    WakeLocked();
  }

  // Whether Close() was called.
  bool closed() const {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }

 private:
  // Whether a consumer has nothing to wait for.
  bool ReadyLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return closed_ || !items_.empty(); }

  // Waits until ReadyLocked() or until `deadline` has passed. It loops, since SteadyCondVar may
  // return early and another consumer may have taken the item.
  void AwaitReadyLocked(SteadyTime deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++n_waiting_;
    while (!ReadyLocked() && SteadyNow() < deadline) ready_.WaitUntil(&mutex_, deadline);
    --n_waiting_;
  }

  // Wakes one consumer, or all of them if the mailbox is closed. Signals while the lock is held,
  // because a consumer may destroy the mailbox as soon as it has the item. Does not signal if no
  // consumer waits, which saves a call into the kernel per push.
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
  int n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;  // consumers inside AwaitReadyLocked
  SteadyCondVar ready_;
};

}  // namespace bora
