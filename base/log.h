// Structured log: one JSON object per line on stderr, valid JSON whatever text a field holds.
// Prompts and outputs are never logged. After StartLogWriter no caller waits for stderr: if its
// reader stalls, lines are dropped and counted (base/log_writer.h).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bora {

// Ascending by severity: a line is written if its level is at least the level given to InitLog.
enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };
// kJson: one JSON object per line. kText: "time level component: message name=value ..." for
// people.
enum class LogFormat { kJson, kText };

// Limit of a message and of each text field, in bytes. Longer text is cut and "…" appended, so that
// a peer whose name has megabytes cannot cause lines of megabytes.
inline constexpr size_t kMaxLogTextBytes = 1024;

// The value of a field, already written as JSON: text quoted, escaped and cut to kMaxLogTextBytes;
// numbers and booleans as they are; infinite and NaN doubles as null.
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

// Name and value. A name is a short constant such as "worker_id".
using LogField = std::pair<absl::string_view, LogValue>;
using LogFields = std::initializer_list<LogField>;

// Sets the process's name in every line ("component"), the lowest level that is written, and the
// format. Call once, from main, before other threads start. Also opens /dev/null for each of stdin,
// stdout and stderr that is closed: otherwise the next file or socket would get that number and
// receive the log.
void InitLog(absl::string_view component, LogLevel min_level, LogFormat format = LogFormat::kJson);

// Starts the thread that writes all later lines, so that no caller waits for stderr. Also ignores
// SIGPIPE and SIGXFSZ, so that neither a closed pipe nor a file size limit ends the process, and
// installs handlers that give queued lines up to 200 ms if the process aborts or crashes. Call
// once, from main, after InitLog; the thread has all signals blocked.
void StartLogWriter();

// Waits until all lines logged so far are written or dropped, at most `timeout`. Call before every
// _exit, which would discard the queue. Async-signal-safe. Does nothing before StartLogWriter.
void FlushLog(absl::Duration timeout = absl::Milliseconds(200));

// Writes text that is not a log line (for example usage errors) to stderr, after the queued lines.
// Waits at most about 400 ms: 200 ms for the queue and 200 ms for the text.
void WriteToStderr(absl::string_view text);

// Sets *level or *format from its name ("debug", "info", "warning", "error"; "json", "text").
// Returns false, and leaves the variable as it is, for any other name.
bool ParseLogLevel(absl::string_view name, LogLevel* level);
bool ParseLogFormat(absl::string_view name, LogFormat* format);

// Writes one line, {"time":..., "level":..., "component":..., "message":..., fields...}, if
// LogsLevel(level). Thread-safe. A line is one write(2), so lines of several processes on one
// terminal do not mix.
void Log(LogLevel level, absl::string_view message, LogFields fields = {});
// The same with fields whose number is known only at run time.
void LogList(LogLevel level, absl::string_view message, const std::vector<LogField>& fields);
// Writes a line for a library, with its name as the component, even if `level` is below the lowest
// level; the caller has decided that already.
void LogAs(absl::string_view component, LogLevel level, absl::string_view message,
           LogFields fields = {});
// Writes the last line of a process that is about to abort, at level error. Bypasses the queue:
// first waits up to 200 ms for queued lines, then writes directly, also within 200 ms.
void LogLastWords(absl::string_view message, LogFields fields = {});
// Whether lines of this level are written: level >= the lowest level given to InitLog.
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

// `text` as a JSON string literal with quotes, in pure ASCII. A byte outside printable ASCII
// becomes \u00XX, byte by byte, so that text that is not UTF-8 is still valid JSON and no byte is
// lost.
std::string JsonQuote(absl::string_view text);

}  // namespace bora
