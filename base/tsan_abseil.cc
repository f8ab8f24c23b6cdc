// Tells ThreadSanitizer what Abseil's locks order. Only in builds with -fsanitize=thread: the
// packaged Abseil is not instrumented, so TSan sees neither its atomics nor its waits and would
// report everything that a lock protects. These definitions stand in front of the library's, call
// them, and state what each promises: what a thread did before it released is seen by the one that
// acquires afterwards.
//
// A waiter's condition is evaluated by whoever unlocks, inside the call and under the lock that
// TSan takes for released by then. So accesses inside the calls are not watched; what conditions
// read is written under the lock, where writes are watched.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <string>

#include "absl/base/options.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/check.h"

// Of TSan's runtime; declared in no header.
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace {

#define BORA_STRING_INNER(x) #x
#define BORA_STRING(x) BORA_STRING_INNER(x)

// The library's function; `member` is the mangled name behind the class, "4LockEv".
template <typename Function>
Function Real(const char* class_name, const char* member) {
  const std::string inner = BORA_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      "4absl" + (ABSL_OPTION_USE_INLINE_NAMESPACE ? std::to_string(inner.size()) + inner : "");
  // Const members are mangled with a K in front of the whole name.
  for (const char* prefix : {"_ZN", "_ZNK"}) {
    const std::string symbol = prefix + name + class_name + member;
    if (void* found = dlsym(RTLD_NEXT, symbol.c_str())) return reinterpret_cast<Function>(found);
  }
  CHECK(false) << "Abseil has no " << class_name << member;
  return nullptr;
}

// While one exists, the thread's accesses are not watched.
class Unwatched {
 public:
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};

void Acquire(const void* object) { __tsan_acquire(const_cast<void*>(object)); }
void Release(const void* object) { __tsan_release(const_cast<void*>(object)); }

}  // namespace

// Calls the library's member with `this` and the arguments.
#define BORA_REAL(result, class_name, member, signature, ...)             \
  static const auto real = Real<result(*) signature>(class_name, member); \
  const auto call = [&]() -> result {                                     \
    const Unwatched unwatched;                                            \
    return real(__VA_ARGS__);                                             \
  }

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  BORA_REAL(void, "5Mutex", "4LockEv", (Mutex*), this);
  call();
  Acquire(this);
}

bool Mutex::TryLock() {
  BORA_REAL(bool, "5Mutex", "7TryLockEv", (Mutex*), this);
  const bool locked = call();
  if (locked) Acquire(this);
  return locked;
}

void Mutex::Unlock() {
  BORA_REAL(void, "5Mutex", "6UnlockEv", (Mutex*), this);
  Release(this);
  call();
}

void Mutex::ReaderLock() {
  BORA_REAL(void, "5Mutex", "10ReaderLockEv", (Mutex*), this);
  call();
  Acquire(this);
}

void Mutex::ReaderUnlock() {
  BORA_REAL(void, "5Mutex", "12ReaderUnlockEv", (Mutex*), this);
  Release(this);
  call();
}

void Mutex::LockWhen(const Condition& condition) {
  BORA_REAL(void, "5Mutex", "8LockWhenERKNS0_9ConditionE", (Mutex*, const Condition&), this,
            condition);
  Release(this);
  call();
  Acquire(this);
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  BORA_REAL(bool, "5Mutex", "20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE",
            (Mutex*, const Condition&, Time), this, condition, deadline);
  Release(this);
  const bool is_true = call();
  Acquire(this);
  return is_true;
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  BORA_REAL(bool, "5Mutex", "19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE",
            (Mutex*, const Condition&, Duration), this, condition, timeout);
  Release(this);
  const bool is_true = call();
  Acquire(this);
  return is_true;
}

void Mutex::Await(const Condition& condition) {
  BORA_REAL(void, "5Mutex", "5AwaitERKNS0_9ConditionE", (Mutex*, const Condition&), this,
            condition);
  Release(this);
  call();
  Acquire(this);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  BORA_REAL(bool, "5Mutex", "17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE",
            (Mutex*, const Condition&, Time), this, condition, deadline);
  Release(this);
  const bool is_true = call();
  Acquire(this);
  return is_true;
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  BORA_REAL(bool, "5Mutex", "16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE",
            (Mutex*, const Condition&, Duration), this, condition, timeout);
  Release(this);
  const bool is_true = call();
  Acquire(this);
  return is_true;
}

void CondVar::Wait(Mutex* mutex) {
  BORA_REAL(void, "7CondVar", "4WaitEPNS0_5MutexE", (CondVar*, Mutex*), this, mutex);
  Release(mutex);
  call();
  Acquire(mutex);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  BORA_REAL(bool, "7CondVar", "16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", (CondVar*, Mutex*, Time),
            this, mutex, deadline);
  Release(mutex);
  const bool timed_out = call();
  Acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  BORA_REAL(bool, "7CondVar", "15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
            (CondVar*, Mutex*, Duration), this, mutex, timeout);
  Release(mutex);
  const bool timed_out = call();
  Acquire(mutex);
  return timed_out;
}

// These two have fast paths that do not lock.

void Notification::Notify() {
  BORA_REAL(void, "12Notification", "6NotifyEv", (Notification*), this);
  Release(this);
  call();
}

void Notification::WaitForNotification() const {
  BORA_REAL(void, "12Notification", "19WaitForNotificationEv", (const Notification*), this);
  call();
  Acquire(this);
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  BORA_REAL(bool, "12Notification", "30WaitForNotificationWithTimeoutENS0_8DurationE",
            (const Notification*, Duration), this, timeout);
  const bool notified = call();
  if (notified) Acquire(this);
  return notified;
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  BORA_REAL(bool, "12Notification", "31WaitForNotificationWithDeadlineENS0_4TimeE",
            (const Notification*, Time), this, deadline);
  const bool notified = call();
  if (notified) Acquire(this);
  return notified;
}

bool BlockingCounter::DecrementCount() {
  BORA_REAL(bool, "15BlockingCounter", "14DecrementCountEv", (BlockingCounter*), this);
  Release(this);
  return call();
}

void BlockingCounter::Wait() {
  BORA_REAL(void, "15BlockingCounter", "4WaitEv", (BlockingCounter*), this);
  call();
  Acquire(this);
}

ABSL_NAMESPACE_END
}  // namespace absl
