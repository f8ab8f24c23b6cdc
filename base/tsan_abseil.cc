// Tells ThreadSanitizer which accesses Abseil's locks order. Compiled only in builds with
// -fsanitize=thread. The packaged Abseil is not instrumented: TSan sees neither its atomics nor its
// waits and would report every access that a lock protects as a race. The definitions here take
// precedence over the library's, call the library's, and tell TSan the promise of each: everything
// that a thread did before it released a lock is visible to the thread that acquires the lock next.
//
// The condition of a waiting thread is evaluated by the thread that unlocks, inside Unlock, when
// TSan already takes the lock for released. Therefore accesses inside the calls are not watched. No
// race is missed: the data that conditions read is written under the lock, outside these calls,
// where writes are watched.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <string>

#include "absl/base/options.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/check.h"

// Functions of TSan's runtime that no header declares.
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace {

// The text of a macro's value, as a string literal.
#define BORA_STRING_INNER(x) #x
#define BORA_STRING(x) BORA_STRING_INNER(x)

// Finds the library's own definition of a member function. `class_name` and `member` are the
// mangled parts of its name, for example "5Mutex" and "4LockEv". Aborts if the library has no such
// symbol.
template <typename Function>
Function Real(const char* class_name, const char* member) {
  const std::string inner = BORA_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      "4absl" + (ABSL_OPTION_USE_INLINE_NAMESPACE ? std::to_string(inner.size()) + inner : "");
  // The mangled name of a const member begins with _ZNK instead of _ZN.
  for (const char* prefix : {"_ZN", "_ZNK"}) {
    const std::string symbol = prefix + name + class_name + member;
    if (void* found = dlsym(RTLD_NEXT, symbol.c_str())) return reinterpret_cast<Function>(found);
  }
  CHECK(false) << "Abseil has no " << class_name << member;
  return nullptr;
}

// While one lives, TSan ignores the reads and writes of this thread.
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

// Defines `call`, which runs the library's member function with the given arguments (`this` first),
// unwatched.
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
