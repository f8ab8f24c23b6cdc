#include "base/log_writer.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace bora {
namespace {

// Bookkeeping that is counted for each queued line, in addition to its text: the string object and
// its place in the deque.
constexpr int64_t kLineOverheadBytes = 64;
// Room kept free for the line that reports dropped lines.
constexpr int64_t kDroppedLineBytes = 512;
// How often Flush compares the counters: every millisecond.
constexpr long kFlushPollNs = 1'000'000;

// Bytes that a queued line counts towards capacity_bytes.
int64_t SizeOf(const std::string& line) {
  return static_cast<int64_t>(line.size()) + kLineOverheadBytes;
}

// CLOCK_MONOTONIC in nanoseconds. Not SteadyNow, since absl::Time functions are not
// async-signal-safe by contract; clock_gettime is.
int64_t SteadyNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Starts a thread with every signal blocked, so that the kernel delivers the process's signals to
// other threads.
std::thread StartWithoutSignals(std::function<void()> run) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(run));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

bool WriteWithin(int fd, absl::string_view text, absl::Duration timeout) {
  const int64_t deadline_ns = SteadyNs() + absl::ToInt64Nanoseconds(timeout);
  while (!text.empty()) {
    pollfd room = {fd, POLLOUT, 0};
    const int64_t left_ms = std::max<int64_t>(0, (deadline_ns - SteadyNs()) / 1'000'000);
    const int n_ready = poll(&room, 1, static_cast<int>(std::min<int64_t>(left_ms, INT_MAX)));
    if (n_ready < 0 && errno == EINTR && SteadyNs() < deadline_ns) continue;
    if (n_ready <= 0 || (room.revents & (POLLERR | POLLNVAL)) != 0) return false;
    // poll says that a pipe is writable if at least PIPE_BUF bytes fit, so this write does not
    // block.
    const ssize_t n = write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (n < 0 && (errno == EINTR || errno == EAGAIN) && SteadyNs() < deadline_ns) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

LogWriter::LogWriter(int fd, LogWriterOptions options,
                     std::function<std::string(int64_t)> dropped_line)
    : fd_(fd), options_(options), dropped_line_(std::move(dropped_line)) {
  thread_ = StartWithoutSignals([this] { Run(); });
}

LogWriter::~LogWriter() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  thread_.join();
}

void LogWriter::Push(std::string line, bool matters) {
  absl::MutexLock lock(&mutex_);
  int64_t room_bytes = options_.capacity_bytes - (matters ? 0 : options_.reserve_bytes) - n_bytes_;
  if (n_dropped_ > 0) room_bytes -= kDroppedLineBytes;
  if (SizeOf(line) > room_bytes) {
    ++n_dropped_;
    return;
  }
  // The report of dropped lines stands at the place where they are missing.
  if (const int64_t n = std::exchange(n_dropped_, 0); n > 0) EnqueueLocked({dropped_line_(n), n});
  EnqueueLocked({std::move(line), 1});
}

void LogWriter::EnqueueLocked(Line line) {
  n_bytes_ += SizeOf(line.text);
  n_queued_.fetch_add(1);
  lines_.push_back(std::move(line));
}

bool LogWriter::Flush(absl::Duration timeout) const {
  const int64_t n_queued = n_queued_.load();
  const int64_t deadline_ns = SteadyNs() + absl::ToInt64Nanoseconds(timeout);
  while (n_done_.load() < n_queued) {
    if (SteadyNs() >= deadline_ns) return false;
    const timespec pause = {0, kFlushPollNs};
    nanosleep(&pause, nullptr);
  }
  return true;
}

void LogWriter::Run() {
  while (true) {
    Line line;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &LogWriter::ReadyLocked));
      // No line has come since lines were dropped: report them now.
      if (lines_.empty() && n_dropped_ > 0 && !refuses_) {
        const int64_t n = std::exchange(n_dropped_, 0);
        EnqueueLocked({dropped_line_(n), n});
      }
      // Only after closed_, as ReadyLocked says.
      if (lines_.empty()) return;
      line = std::move(lines_.front());
      lines_.pop_front();
    }
    const bool written = WriteLine(line.text);
    {
      absl::MutexLock lock(&mutex_);
      n_bytes_ -= SizeOf(line.text);
      refuses_ = !written;
      if (!written) n_dropped_ += line.n_lines;
    }
    n_done_.fetch_add(1);
  }
}

bool LogWriter::WriteLine(absl::string_view line) {
  // The last write was cut short: begin a new line, so that the fragment spoils no other line.
  std::string on_new_line;
  if (in_line_) {
    on_new_line = std::string("\n").append(line.data(), line.size());
    line = on_new_line;
  }
  while (!line.empty()) {
    const ssize_t n = write(fd_, line.data(), line.size());
    if (n > 0) {
      in_line_ = true;
      line.remove_prefix(static_cast<size_t>(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {  // another process has set O_NONBLOCK on the shared descriptor
      pollfd room = {fd_, POLLOUT, 0};
      poll(&room, 1, -1);
      continue;
    }
    return false;
  }
  in_line_ = false;
  return true;
}

}  // namespace bora
