// Queues log lines from any thread; a thread of its own writes them to a descriptor. Only that
// thread waits for a full pipe or a slow disk. The queue is bounded: a line that finds no room, or
// that the descriptor refuses, is dropped, and a later line says how many were dropped.
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

// Writes `text` to `fd`, waiting at most `timeout` for the descriptor to become writable. Writes at
// most PIPE_BUF bytes per call, which a pipe that polls as writable takes without blocking. Returns
// false if some of the text was not written. Async-signal-safe.
bool WriteWithin(int fd, absl::string_view text, absl::Duration timeout);

struct LogWriterOptions {
  // Limit of all queued lines together, including 64 bytes of bookkeeping for each.
  int64_t capacity_bytes = 1 << 20;
  // The last part of capacity_bytes, which only lines pushed with `matters` may use.
  int64_t reserve_bytes = 128 << 10;
};

// See the top of this file. Thread-safe.
class LogWriter {
 public:
  // Starts the thread. `fd` must stay open while the object lives; it is not closed here.
  // `dropped_line(n)` returns the line (with newline) that reports n dropped lines; it is called
  // with the lock held and must not log.
  LogWriter(int fd, LogWriterOptions options, std::function<std::string(int64_t)> dropped_line);
  // Waits until every queued line is written or refused, without a time limit. A server never gets
  // here: it calls Flush and then _exit.
  ~LogWriter();

  // Queues a line, which ends in a newline. `matters`: the line may use the reserve (warnings and
  // errors). Never waits for the descriptor. A line is one write(2) unless the descriptor takes
  // only a part, so lines of several processes do not mix. Lines of one thread keep their order.
  void Push(std::string line, bool matters);

  // Waits until every line pushed so far is written or refused, at most `timeout`; false if the
  // time was too short. Polls every millisecond instead of taking the lock, hence
  // async-signal-safe.
  bool Flush(absl::Duration timeout) const;

 private:
  struct Line {
    std::string text;
    int64_t n_lines = 1;  // lost if this line is refused: for a report of n dropped lines n, else 1
  };

  // The thread's loop: takes one line at a time, writes it without the lock, counts it as done.
  void Run();
  void EnqueueLocked(Line line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Writes one line, waiting as long as the descriptor is full; false if the descriptor refuses it
  // (for example EPIPE or ENOSPC).
  bool WriteLine(absl::string_view line);
  // True if the thread has work: lines, the end, or dropped lines to report. After a refusal a
  // report waits for the next pushed line, so that the thread does not spin on a broken descriptor.
  bool ReadyLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return closed_ || !lines_.empty() || (n_dropped_ > 0 && !refuses_);
  }

  const int fd_;
  const LogWriterOptions options_;
  const std::function<std::string(int64_t)> dropped_line_;

  absl::Mutex mutex_;
  std::deque<Line> lines_ ABSL_GUARDED_BY(mutex_);
  int64_t n_bytes_ ABSL_GUARDED_BY(mutex_) = 0;    // of lines_ and of the line being written
  int64_t n_dropped_ ABSL_GUARDED_BY(mutex_) = 0;  // lines that no queued line reports yet
  bool refuses_ ABSL_GUARDED_BY(mutex_) = false;   // the descriptor refused the last write
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  // Lines queued and lines written or refused since the start. Atomics, so that Flush can run in a
  // signal handler.
  std::atomic<int64_t> n_queued_{0};
  std::atomic<int64_t> n_done_{0};

  bool in_line_ = false;  // used by the thread only: the last write ended inside a line

  std::thread thread_;
};

}  // namespace bora
