#include "base/rpc/accept_guard.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/log_rate.h"

namespace bora {
namespace {

// A descriptor of /dev/null that can be given up to accept one connection. Thread-safe.
class SpareDescriptor {
 public:
  void Keep() {
    absl::MutexLock lock(&mutex_);
    KeepLocked();
  }

  // Accepts one pending connection of `listener` and closes it. False if none is pending, or if no
  // descriptor could be had.
  bool TurnAway(int listener) {
    absl::MutexLock lock(&mutex_);
    // The last call may have failed to reopen the spare: another thread can take the number between
    // close() and open().
    if (fd_ < 0) KeepLocked();
    if (fd_ < 0) return false;
    close(fd_);
    fd_ = -1;
    const long connection = syscall(SYS_accept4, listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection >= 0) close(static_cast<int>(connection));
    KeepLocked();
    return connection >= 0;
  }

 private:
  void KeepLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    fd_ = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }

  absl::Mutex mutex_;
  int fd_ ABSL_GUARDED_BY(mutex_) = -1;
};

SpareDescriptor& Spare() {
  static SpareDescriptor* const spare = new SpareDescriptor();
  return *spare;
}

// At most one warning per second: a peer can cause any number of these.
void LogTurnedAway(int error) {
  static LogRate* const rate = new LogRate(absl::Seconds(1));
  const std::optional<int64_t> n_left_out = rate->Take();
  if (!n_left_out.has_value()) return;
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  LogWarning("no descriptor for a connection: it was closed",
             {{"reason", error == EMFILE ? "the process's limit" : "the system's limit"},
              {"limit", static_cast<int64_t>(limit.rlim_cur)},
              {"left_out", *n_left_out}});
}

}  // namespace

void GuardAccept() { Spare().Keep(); }

}  // namespace bora

// Replaces libc's accept4 for the whole program. EAGAIN tells gRPC that no connection is pending,
// which it treats as normal.
extern "C" int accept4(int listener, sockaddr* address, socklen_t* n_bytes, int flags) {
  while (true) {
    const long connection = syscall(SYS_accept4, listener, address, n_bytes, flags);
    if (connection >= 0 || (errno != EMFILE && errno != ENFILE)) {
      return static_cast<int>(connection);
    }
    const int error = errno;
    const bool turned_away = bora::Spare().TurnAway(listener);
    bora::LogTurnedAway(error);
    if (turned_away) continue;
    errno = EAGAIN;
    return -1;
  }
}
