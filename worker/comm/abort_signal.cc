#include "worker/comm/abort_signal.h"

#include <string>

#include "worker/comm/link/socket_util.h"

namespace bora {

void AbortSignal::Raise(const absl::Status& reason) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status_.ok()) return;
    status_ = absl::AbortedError(reason.message());
  }
  raised_.store(true, std::memory_order_release);
  SignalEventFd(event_fd_.get());
}

absl::Status AbortSignal::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

}  // namespace bora
