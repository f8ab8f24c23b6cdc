#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace bora {
namespace {

// Set once before threads start; the log has no other state.
std::string* g_component = new std::string("bora");
std::atomic<int> g_min_level{static_cast<int>(LogLevel::kInfo)};

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

}  // namespace

std::string JsonQuote(absl::string_view text) {
  std::string out = "\"";
  for (const char ch : text) {
    const unsigned char byte = static_cast<unsigned char>(ch);
    if (ch == '"' || ch == '\\') {
      out += '\\';
      out += ch;
    } else if (ch == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte >= 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", byte);
    } else {
      out += ch;
    }
  }
  out += '"';
  return out;
}

LogValue::LogValue(absl::string_view text) : json_(JsonQuote(text)) {}
LogValue::LogValue(double value)
    : json_(std::isfinite(value) ? absl::StrFormat("%.6g", value) : "null") {}

void InitLog(absl::string_view component, LogLevel min_level) {
  *g_component = std::string(component);
  g_min_level = static_cast<int>(min_level);
}

void Log(LogLevel level, absl::string_view message, LogFields fields) {
  if (static_cast<int>(level) < g_min_level.load(std::memory_order_relaxed)) return;
  std::string line = absl::StrCat(
      "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
      "\",\"level\":\"", LevelName(level), "\",\"component\":", JsonQuote(*g_component),
      ",\"message\":", JsonQuote(message));
  for (const auto& [name, value] : fields) {
    absl::StrAppend(&line, ",", JsonQuote(name), ":", value.json());
  }
  line += "}\n";
  // A log line that cannot be written has nowhere to be reported.
  (void)!write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace bora
