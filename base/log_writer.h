// Takes lines from any thread and writes them to a descriptor from one thread of its own, the only
// one that a full pipe or a slow disk can hold up. What it keeps in memory is bounded: lines that
// find no room, or that the descriptor refuses, are dropped and counted, and a line says how many.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bora {

// Writes the text as far as that is possible without waiting longer than `timeout` for room, in
// pieces that a pipe takes without blocking once it says that it has room. Async-signal-safe. False
// if a part is missing.
bool WriteWithin(int fd, absl::string_view text, absl::Duration timeout);

struct LogWriterOptions {
  // Of lines that wait, with what the queue itself needs for each.
  int64_t capacity_bytes = 1 << 20;
  // The end of that, kept for lines that matter.
  int64_t reserve_bytes = 128 << 10;
};

// Thread-safe.
class LogWriter {
 public:
  // `dropped_line` makes the line that says how many were dropped. It is called under a lock and
  // must not log.
  LogWriter(int fd, LogWriterOptions options, std::function<std::string(int64_t)> dropped_line);
  // Waits until the lines are written or refused, however long that takes. A process that ends does
  // not come here: it calls Flush and exits.
  ~LogWriter();

  // Queues a line, with its newline. Never waits for the descriptor. A line is one write(2), so
  // lines of several processes do not mix; lines of one thread keep their order.
  void Push(std::string line, bool matters);

  // Waits until what was pushed is written or refused, `timeout` at most; false if that was too
  // short. Async-signal-safe.
  bool Flush(absl::Duration timeout) const;

 private:
  struct Line {
    std::string text;
    int64_t n_lines = 1;  // that are lost with it: those that it reports, if it reports any
  };

  void Run();
  void EnqueueLocked(Line line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Writes one line, however long it takes; false when the descriptor refuses it.
  bool WriteLine(absl::string_view line);
  bool ReadyLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return closed_ || !lines_.empty() || (n_dropped_ > 0 && !refuses_);
  }

  const int fd_;
  const LogWriterOptions options_;
  const std::function<std::string(int64_t)> dropped_line_;

  absl::Mutex mutex_;
  std::deque<Line> lines_ ABSL_GUARDED_BY(mutex_);
  int64_t n_bytes_ ABSL_GUARDED_BY(mutex_) = 0;    // of lines_
  int64_t n_dropped_ ABSL_GUARDED_BY(mutex_) = 0;  // and nothing has said so yet
  bool refuses_ ABSL_GUARDED_BY(mutex_) = false;   // the descriptor has refused the last write
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  // What was queued, and what of it is written or refused.
  std::atomic<int64_t> n_queued_{0};
  std::atomic<int64_t> n_done_{0};

  bool in_line_ = false;  // the thread's own: the last write ended inside a line

  std::thread thread_;
};

}  // namespace bora
