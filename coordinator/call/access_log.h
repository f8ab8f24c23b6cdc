// One line in the log for each call of a client: the request's numbers, how the call ended and how
// it spent its time. The texts of prompts and completions are never logged. Refusals that come in
// bulk are counted instead of logged, so that overload does not fill a disk.
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

// Which calls have a line: all, those that end with another code than OK, or none.
enum class AccessLogMode { kAll, kErrors, kOff };

struct AccessLogOptions {
  AccessLogMode mode = AccessLogMode::kAll;
  // Share of the successful calls that have a line, [0, 1]; IsSampled chooses them. A call that
  // fails has a line whatever the share.
  double sample = 1;
};

// Thread-safe.
class AccessLog {
 public:
  explicit AccessLog(AccessLogOptions options) : options_(options) {}

  // Counts a call that has ended and writes its line if it is to have one. Call once per call.
  // `duration`: from the call's arrival to its end.
  void Record(const CallRecord& record, absl::Duration duration);
  // Writes one line with the numbers of the refusals that Record has counted without a line, if
  // there are any, and allows the next refusals to have lines again. Call every second.
  void FlushRefusals();
  // Returns the statistics of the calls since the last TakeStats.
  CallStats TakeStats();

 private:
  // Returns whether a refusal with this reason may have a line of its own; if not, counts it.
  bool AllowRefusal(const std::string& reason);

  const AccessLogOptions options_;
  absl::Mutex mutex_;
  int64_t n_refusal_lines_ ABSL_GUARDED_BY(mutex_) = 0;  // lines written since FlushRefusals
  // Refusals without a line since FlushRefusals, by reason.
  std::map<std::string, int64_t> n_left_out_ ABSL_GUARDED_BY(mutex_);
  CallStats stats_ ABSL_GUARDED_BY(mutex_);  // since TakeStats; its median is computed there
  // Times to the first token since TakeStats, kMaxFirstTokens at most.
  std::vector<float> first_token_ms_ ABSL_GUARDED_BY(mutex_);
};

// The fields of the line of a call that took `duration`.
std::vector<LogField> AccessLogFields(const CallRecord& record, absl::Duration duration);

// Whether a successful call with this request id has a line, if the given share [0, 1] of the calls
// has one: whether the id's hash, scaled to [0, 1), is below the share. Depends on the arguments
// alone, so that all servers that a request passes choose alike.
bool IsSampled(absl::string_view request_id, double share);

// Sets `mode` to the mode with this name: "all", "errors" or "off". Returns false, and sets
// nothing, for any other name.
bool ParseAccessLogMode(absl::string_view name, AccessLogMode* mode);

}  // namespace bora
