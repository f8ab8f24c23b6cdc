#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log_writer.h"

namespace bora {
namespace {

// How long WriteToStderr waits for room in stderr.
constexpr absl::Duration kDirectWriteTimeout = absl::Milliseconds(200);

// Set once, before threads start. Pointers that are never deleted, since threads may log while the
// process ends.
std::string* g_component = new std::string("bora");
std::atomic<int> g_min_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<LogFormat> g_format{LogFormat::kJson};
// The queue and its thread. Null before StartLogWriter, and in a child made by fork, which has no
// such thread. Never deleted.
std::atomic<LogWriter*> g_writer{nullptr};

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

// JsonQuote of the first kMaxLogTextBytes bytes, with "…" (\u2026) before the closing quote if text
// was cut.
std::string Quoted(absl::string_view text) {
  if (text.size() <= kMaxLogTextBytes) return JsonQuote(text);
  std::string out = JsonQuote(text.substr(0, kMaxLogTextBytes));
  out.insert(out.size() - 1, "\\u2026");
  return out;
}

// For the text format: drops the quotes of a JSON string that is readable without them.
std::string ForPeople(const std::string& json) {
  if (json.size() < 3 || json.front() != '"') return json;
  for (size_t i = 1; i + 1 < json.size(); ++i) {
    if (json[i] == ' ' || json[i] == '"' || json[i] == '\\' || json[i] == '=') return json;
  }
  return json.substr(1, json.size() - 2);
}

// The whole line in the current format, with its newline.
std::string FormatLine(absl::string_view component, LogLevel level, absl::string_view message,
                       const LogField* fields, size_t n_fields) {
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const std::string quoted_message = Quoted(message);
  std::string line;
  if (g_format.load(std::memory_order_relaxed) == LogFormat::kText) {
    line = absl::StrCat(time, " ", LevelName(level), " ", component, ": ",
                        absl::string_view(quoted_message).substr(1, quoted_message.size() - 2));
    for (size_t i = 0; i < n_fields; ++i) {
      absl::StrAppend(&line, " ", fields[i].first, "=", ForPeople(fields[i].second.json()));
    }
    return line + "\n";
  }
  line = absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(level),
                      "\",\"component\":", JsonQuote(component), ",\"message\":", quoted_message);
  for (size_t i = 0; i < n_fields; ++i) {
    absl::StrAppend(&line, ",", JsonQuote(fields[i].first), ":", fields[i].second.json());
  }
  return line + "}\n";
}

// Queues the line if there is a writer, else writes it on the calling thread.
void Write(absl::string_view component, LogLevel level, absl::string_view message,
           const LogField* fields, size_t n_fields) {
  std::string line = FormatLine(component, level, message, fields, n_fields);
  if (LogWriter* writer = g_writer.load(); writer != nullptr) {
    writer->Push(std::move(line), level >= LogLevel::kWarning);
    return;
  }
  // A log line that cannot be written has nowhere to be reported.
  (void)!write(STDERR_FILENO, line.data(), line.size());
}

// The line that LogWriter puts in the place of n dropped lines.
std::string DroppedLine(int64_t n) {
  const LogField fields[] = {{"lines", n}};
  return FormatLine(*g_component, LogLevel::kWarning, absl::StrCat(n, " log lines dropped"), fields,
                    1);
}

// Handler of SIGABRT, SIGSEGV and the like: gives queued lines 200 ms and returns. SA_RESETHAND has
// restored the default action by then, so the signal, raised again by the abort or by the repeated
// instruction, ends the process.
void FlushAndDie(int) { FlushLog(); }

}  // namespace

std::string JsonQuote(absl::string_view text) {
  std::string out = "\"";
  out.reserve(text.size() + 2);
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

LogValue::LogValue(absl::string_view text) : json_(Quoted(text)) {}
LogValue::LogValue(double value)
    : json_(std::isfinite(value) ? absl::StrFormat("%.6g", value) : "null") {}

void InitLog(absl::string_view component, LogLevel min_level, LogFormat format) {
  *g_component = std::string(component);
  g_min_level = static_cast<int>(min_level);
  g_format = format;
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // open takes the lowest descriptor that is free, which is this one.
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
  }
}

void StartLogWriter() {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  g_writer = new LogWriter(STDERR_FILENO, LogWriterOptions(), DroppedLine);
  // fork copies only the calling thread: a child that queued lines would never write them.
  pthread_atfork(nullptr, nullptr, [] { g_writer = nullptr; });
  struct sigaction action = {};
  action.sa_handler = FlushAndDie;
  action.sa_flags = SA_RESETHAND;
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    sigaction(number, &action, nullptr);
  }
}

void FlushLog(absl::Duration timeout) {
  if (const LogWriter* writer = g_writer.load(); writer != nullptr) writer->Flush(timeout);
}

void WriteToStderr(absl::string_view text) {
  FlushLog();
  WriteWithin(STDERR_FILENO, text, kDirectWriteTimeout);
}

bool ParseLogLevel(absl::string_view name, LogLevel* level) {
  for (const LogLevel each :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (name != LevelName(each)) continue;
    *level = each;
    return true;
  }
  return false;
}

bool ParseLogFormat(absl::string_view name, LogFormat* format) {
  if (name != "json" && name != "text") return false;
  *format = name == "json" ? LogFormat::kJson : LogFormat::kText;
  return true;
}

bool LogsLevel(LogLevel level) {
  return static_cast<int>(level) >= g_min_level.load(std::memory_order_relaxed);
}

void Log(LogLevel level, absl::string_view message, LogFields fields) {
  if (!LogsLevel(level)) return;
  Write(*g_component, level, message, fields.begin(), fields.size());
}

void LogList(LogLevel level, absl::string_view message, const std::vector<LogField>& fields) {
  if (!LogsLevel(level)) return;
  Write(*g_component, level, message, fields.data(), fields.size());
}

void LogAs(absl::string_view component, LogLevel level, absl::string_view message,
           LogFields fields) {
  Write(component, level, message, fields.begin(), fields.size());
}

void LogLastWords(absl::string_view message, LogFields fields) {
  WriteToStderr(FormatLine(*g_component, LogLevel::kError, message, fields.begin(), fields.size()));
}

}  // namespace bora
