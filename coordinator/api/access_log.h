// One line for each call that clients make: what was asked for, how it ended and where its time
// went, without a word of its texts. Refusals that come in bulk are counted, so that overload does
// not fill a disk.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "coordinator/api/call_record.h"

namespace bora {

enum class AccessLogMode { kAll, kErrors, kOff };

struct AccessLogOptions {
  AccessLogMode mode = AccessLogMode::kAll;
  // Share of the calls that succeed which have a line, [0, 1]: those whose request id's hash is
  // below it. Errors always have one.
  double sample = 1;
};

// What clients met since the last look.
struct CallStats {
  int64_t n_calls = 0;
  int64_t n_errors = 0;            // other codes than OK
  absl::Duration first_token_p50;  // zero when there was no first token
};

// Thread-safe.
class AccessLog {
 public:
  explicit AccessLog(AccessLogOptions options) : options_(options) {}

  // Call at the end of the call, once.
  void Record(const CallRecord& record, absl::Duration duration);
  // Writes one line for the refusals that Record has only counted. Call every second.
  void FlushRefusals();
  // Begins anew.
  CallStats TakeStats();

 private:
  // Whether the refusal may have a line of its own; counts it otherwise.
  bool AllowRefusal(const std::string& reason);

  const AccessLogOptions options_;
  absl::Mutex mutex_;
  int64_t n_refusal_lines_ ABSL_GUARDED_BY(mutex_) = 0;                // since FlushRefusals
  std::map<std::string, int64_t> n_left_out_ ABSL_GUARDED_BY(mutex_);  // by reason
  CallStats stats_ ABSL_GUARDED_BY(mutex_);
  std::vector<float> first_token_ms_ ABSL_GUARDED_BY(mutex_);  // kMaxFirstTokens at most
};

// The fields of the call's line.
std::vector<LogField> AccessLogFields(const CallRecord& record, absl::Duration duration);

// Whether a call with this id is among the share: the same on every server and at every time.
bool IsSampled(absl::string_view request_id, double share);

// The mode with this name ("all", "errors", "off"); false if there is none.
bool ParseAccessLogMode(absl::string_view name, AccessLogMode* mode);

}  // namespace bora
