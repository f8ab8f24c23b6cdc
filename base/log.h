// Structured log: one JSON object per line on stderr, safe for any text in a field. No prompt or
// output text is ever logged. Between StartLogWriter and the end of the process a line that nobody
// reads costs its caller nothing: see base/log_writer.h.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bora {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };
enum class LogFormat { kJson, kText };

// Texts of fields and messages are cut after this many bytes, where "…" stands then: a peer that
// gives a name of megabytes gets a line of kilobytes.
inline constexpr size_t kMaxLogTextBytes = 1024;

// A field's value: text is quoted and escaped, numbers and booleans are written as they are.
class LogValue {
 public:
  LogValue(absl::string_view text);                                         // NOLINT
  LogValue(const char* text) : LogValue(absl::string_view(text)) {}         // NOLINT
  LogValue(const std::string& text) : LogValue(absl::string_view(text)) {}  // NOLINT
  LogValue(bool value) : json_(value ? "true" : "false") {}                 // NOLINT
  LogValue(int32_t value) : json_(std::to_string(value)) {}                 // NOLINT
  LogValue(int64_t value) : json_(std::to_string(value)) {}                 // NOLINT
  LogValue(uint64_t value) : json_(std::to_string(value)) {}                // NOLINT
  LogValue(double value);                                                   // NOLINT
  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

using LogField = std::pair<absl::string_view, LogValue>;
using LogFields = std::initializer_list<LogField>;

// Sets the process's name in every line ("component"), the lowest level that is written and the
// form of the lines. Call once, from main, before other threads start. A standard descriptor that
// is closed becomes /dev/null, so that no file or socket of this process is taken for it.
void InitLog(absl::string_view component, LogLevel min_level, LogFormat format = LogFormat::kJson);

// From here on lines are written by a thread of their own and no caller waits for stderr. SIGPIPE
// and SIGXFSZ are ignored from then on: neither a reader that is gone nor a file that may not grow
// ends the process. When the process aborts or crashes, what is queued still gets 200 ms. Call
// once, from the main of a server, after InitLog; the thread takes no signals.
void StartLogWriter();

// Waits until what was logged is written, `timeout` at most. Before every _exit.
void FlushLog(absl::Duration timeout = absl::Milliseconds(200));

// Writes text that is no log line (the error of a start) behind the lines that are queued, without
// ever waiting longer than about 400 ms.
void WriteToStderr(absl::string_view text);

// The level or format with this name ("debug", "info", "warning", "error"; "json", "text"); false
// if there is none.
bool ParseLogLevel(absl::string_view name, LogLevel* level);
bool ParseLogFormat(absl::string_view name, LogFormat* format);

// Writes {"time":..., "level":..., "component":..., "message":..., fields...} as one line.
// Thread-safe; a line is one write(2), so lines of several processes on one terminal do not mix.
void Log(LogLevel level, absl::string_view message, LogFields fields = {});
// For fields that are known only at run time.
void LogList(LogLevel level, absl::string_view message, const std::vector<LogField>& fields);
// A line of a library, by its own name, whatever the lowest level.
void LogAs(absl::string_view component, LogLevel level, absl::string_view message,
           LogFields fields = {});
// The last line of a process that is about to abort: an error that goes past the queue, after what
// is queued if that can be written within 200 ms.
void LogLastWords(absl::string_view message, LogFields fields = {});
// Whether lines of this level are written.
bool LogsLevel(LogLevel level);

inline void LogDebug(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kDebug, message, fields);
}
inline void LogInfo(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarning(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kWarning, message, fields);
}
inline void LogError(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kError, message, fields);
}

// The text as a JSON string literal with quotes, in ASCII: each byte beyond it becomes \u00XX.
std::string JsonQuote(absl::string_view text);

}  // namespace bora
