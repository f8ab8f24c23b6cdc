// The objects that all calls of the public services share, whatever transport carries the calls.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace bora {

class AccessLog;
class CallPump;
class Generator;
class RequestValidator;
class TaskPool;

// Every object is thread-safe and outlives the calls.
struct CallServices {
  Generator* engine = nullptr;
  const RequestValidator* validator = nullptr;
  CallPump* pump = nullptr;
  TaskPool* tasks = nullptr;
  std::atomic<int64_t>* n_live_calls = nullptr;  // calls whose OnDone has not run yet
  AccessLog* access_log = nullptr;
  // The longest time that a message may stay unread; then the call ends with SLOW_CONSUMER.
  absl::Duration slow_reader_timeout;
};

}  // namespace bora
