// One line in the log for each call of a client: the request's numbers, how the call ended and
// where its time went, without a word of its texts. Refusals that come in bulk are counted, so that
// overload does not fill a disk.
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
#include "coordinator/api/call_stats.h"
#include "coordinator/call/call_record.h"

namespace bora {

enum class AccessLogMode { kAll, kErrors, kOff };

struct AccessLogOptions {
  AccessLogMode mode = AccessLogMode::kAll;
  // Share of the successful calls that have a line, [0, 1]: IsSampled tells which. Errors always
  // have one.
  double sample = 1;
};

// Thread-safe.
class AccessLog {
 public:
  explicit AccessLog(AccessLogOptions options) : options_(options) {}

  // Call at the end of the call, once.
  void Record(const CallRecord& record, absl::Duration duration);
  // Writes one line for the refusals that Record has only counted, if there are any. Call every
  // second.
  void FlushRefusals();
  // Of the calls since the last TakeStats.
  CallStats TakeStats();

 private:
  // Whether a refusal with this reason may have a line of its own; counts it otherwise.
  bool AllowRefusal(const std::string& reason);

  const AccessLogOptions options_;
  absl::Mutex mutex_;
  int64_t n_refusal_lines_ ABSL_GUARDED_BY(mutex_) = 0;                // since FlushRefusals
  std::map<std::string, int64_t> n_left_out_ ABSL_GUARDED_BY(mutex_);  // by reason
  CallStats stats_ ABSL_GUARDED_BY(mutex_);
  std::vector<float> first_token_ms_ ABSL_GUARDED_BY(mutex_);  // kMaxFirstTokens at most
};

// The fields of the line of a call that took `duration`.
std::vector<LogField> AccessLogFields(const CallRecord& record, absl::Duration duration);

// Whether the successful call with this id is among the share [0, 1] that has a line: its hash is
// below the share. The answer is the same on every server and at every time.
bool IsSampled(absl::string_view request_id, double share);

// The mode with this name ("all", "errors", "off"); false if there is none.
bool ParseAccessLogMode(absl::string_view name, AccessLogMode* mode);

}  // namespace bora
