#include "coordinator/call/access_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/api/api_errors.h"

namespace bora {
namespace {

// How many refusals between two FlushRefusals, that is per second, have lines of their own.
constexpr int64_t kMaxRefusalLines = 5;
// How many times to the first token are kept for the median of TakeStats; once there are as many,
// later ones replace earlier ones.
constexpr size_t kMaxFirstTokens = 4096;

// Whether the call is of the kind that status displays make once a second: its line would drown the
// others, so it has the level debug.
bool IsQuiet(const CallRecord& record) {
  return record.code == absl::StatusCode::kOk &&
         absl::string_view(record.method) == "GetServerInfo";
}

absl::string_view NameOf(Priority priority) {
  switch (priority) {
    case Priority::kInteractive:
      return "interactive";
    case Priority::kStandard:
      return "standard";
    case Priority::kBatch:
      return "batch";
  }
  return "unknown";
}

absl::string_view NameOf(FinishKind kind) {
  switch (kind) {
    case FinishKind::kStopToken:
      return "STOP_TOKEN";
    case FinishKind::kStopSequence:
      return "STOP_SEQUENCE";
    case FinishKind::kMaxTokens:
      return "MAX_TOKENS";
    case FinishKind::kContextLength:
      return "CONTEXT_LENGTH";
    case FinishKind::kTimeLimit:
      return "TIME_LIMIT";
  }
  return "UNKNOWN";
}

// "MAX_TOKENS", or with several candidates "MAX_TOKENS x3, STOP_TOKEN".
std::string Summarize(const std::vector<FinishKind>& finishes) {
  std::map<FinishKind, int> counts;
  for (const FinishKind kind : finishes) ++counts[kind];
  std::string out;
  for (const auto& [kind, n] : counts) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", NameOf(kind),
                    n == 1 ? "" : absl::StrCat(" x", n));
  }
  return out;
}

}  // namespace

std::vector<LogField> AccessLogFields(const CallRecord& record, absl::Duration duration) {
  std::vector<LogField> fields = {{"method", record.method},
                                  {"code", absl::StatusCodeToString(record.code)},
                                  {"reason", record.reason},
                                  {"request_id", record.request_id}};
  if (record.generation.has_value()) {
    const GenerationRecord& generation = *record.generation;
    fields.insert(fields.end(),
                  {{"tenant", generation.tenant},
                   {"priority", NameOf(generation.priority)},
                   {"candidates", generation.n_candidates},
                   {"prompt_tokens", generation.n_prompt_tokens},
                   {"cached_tokens", generation.n_cached_prompt_tokens},
                   {"output_tokens", generation.n_output_tokens},
                   {"finish", Summarize(generation.finishes)},
                   // The API's type for seeds is signed.
                   {"seed", static_cast<int64_t>(generation.seed)},
                   {"queue_ms", absl::ToDoubleMilliseconds(generation.timing.queue)},
                   {"prefill_ms", absl::ToDoubleMilliseconds(generation.timing.prefill)},
                   {"decode_ms", absl::ToDoubleMilliseconds(generation.timing.decode)},
                   {"first_token_ms", absl::ToDoubleMilliseconds(generation.first_token)}});
  }
  fields.insert(fields.end(),
                {{"duration_ms", absl::ToDoubleMilliseconds(duration)}, {"peer", record.peer}});
  return fields;
}

bool IsSampled(absl::string_view request_id, double share) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char byte : request_id) {
    hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  }
  // FNV-1a hardly carries the last byte into the upper bits. This step does, so that ids which
  // differ only in their last letter are chosen independently.
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash ^= hash >> 33;
  // The upper 53 bits, as many as a double keeps exactly, as a number in [0, 1).
  return static_cast<double>(hash >> 11) * 0x1p-53 < share;
}

bool ParseAccessLogMode(absl::string_view name, AccessLogMode* mode) {
  if (name == "all") {
    *mode = AccessLogMode::kAll;
  } else if (name == "errors") {
    *mode = AccessLogMode::kErrors;
  } else if (name == "off") {
    *mode = AccessLogMode::kOff;
  } else {
    return false;
  }
  return true;
}

bool AccessLog::AllowRefusal(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  if (n_refusal_lines_ < kMaxRefusalLines) {
    ++n_refusal_lines_;
    return true;
  }
  ++n_left_out_[reason];
  return false;
}

void AccessLog::Record(const CallRecord& record, absl::Duration duration) {
  const bool ok = record.code == absl::StatusCode::kOk;
  {
    absl::MutexLock lock(&mutex_);
    const int64_t n = stats_.n_calls++;
    if (!ok) ++stats_.n_errors;
    if (record.generation.has_value() && record.generation->n_output_tokens > 0) {
      const auto ms =
          static_cast<float>(absl::ToDoubleMilliseconds(record.generation->first_token));
      if (first_token_ms_.size() < kMaxFirstTokens) {
        first_token_ms_.push_back(ms);
      } else {
        first_token_ms_[static_cast<size_t>(n) % kMaxFirstTokens] = ms;
      }
    }
  }
  if (options_.mode == AccessLogMode::kOff) return;
  if (ok && options_.mode == AccessLogMode::kErrors) return;
  if (ok && !IsSampled(record.request_id, options_.sample)) return;
  if (IsRefusal(record.reason) && !AllowRefusal(record.reason)) return;
  LogLevel level = IsQuiet(record) ? LogLevel::kDebug : LogLevel::kInfo;
  if (record.code == absl::StatusCode::kInternal) level = LogLevel::kError;
  if (LogsLevel(level)) LogList(level, "rpc", AccessLogFields(record, duration));
}

void AccessLog::FlushRefusals() {
  std::map<std::string, int64_t> left_out;
  {
    absl::MutexLock lock(&mutex_);
    n_refusal_lines_ = 0;
    left_out.swap(n_left_out_);
  }
  if (left_out.empty()) return;
  int64_t n_calls = 0;
  for (const auto& [reason, n] : left_out) n_calls += n;
  std::vector<LogField> fields = {{"calls", n_calls}};
  for (const auto& [reason, n] : left_out) fields.emplace_back(reason, n);
  LogList(LogLevel::kInfo, "more calls refused", fields);
}

CallStats AccessLog::TakeStats() {
  absl::MutexLock lock(&mutex_);
  if (!first_token_ms_.empty()) {
    const auto middle =
        first_token_ms_.begin() + static_cast<ptrdiff_t>(first_token_ms_.size() / 2);
    std::nth_element(first_token_ms_.begin(), middle, first_token_ms_.end());
    stats_.first_token_p50 = absl::Milliseconds(double{*middle});
    first_token_ms_.clear();
  }
  return std::exchange(stats_, CallStats());
}

}  // namespace bora
