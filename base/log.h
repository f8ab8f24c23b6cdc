// Structured log: one JSON object per line on stderr, safe for any text in a field. No prompt or
// output text is ever logged.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace bora {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

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

using LogFields = std::initializer_list<std::pair<absl::string_view, LogValue>>;

// Sets the process's name in every line ("component") and the lowest level that is written. Call
// once, from main, before other threads start.
void InitLog(absl::string_view component, LogLevel min_level);

// Writes {"time":..., "level":..., "component":..., "message":..., fields...} as one line.
// Thread-safe; a line is one write(2), so lines of several processes on one terminal do not mix.
void Log(LogLevel level, absl::string_view message, LogFields fields = {});

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
