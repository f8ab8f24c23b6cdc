#include "base/rpc/rpc_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "base/log_rate.h"

namespace bora {
namespace {

// Limit for gRPC's lines: a peer can cause any number of them.
constexpr absl::Duration kMinInterval = absl::Milliseconds(50);

// gRPC's hook is a plain function without a context pointer, so its settings are globals.
std::atomic<LogLevel> g_error_level{LogLevel::kWarning};
std::atomic<bool> g_asked_for{false};  // GRPC_VERBOSITY is set: no limit, whatever the log level

// The level of this process's log for a severity of gRPC.
LogLevel LevelOf(gpr_log_severity severity) {
  switch (severity) {
    case GPR_LOG_SEVERITY_ERROR:
      return g_error_level.load(std::memory_order_relaxed);
    case GPR_LOG_SEVERITY_INFO:
      return LogLevel::kInfo;
    case GPR_LOG_SEVERITY_DEBUG:
      return LogLevel::kDebug;
  }
  return LogLevel::kDebug;
}

// The last component of a path; the whole text if it has no '/' (rfind gives npos, and npos + 1 is
// 0).
absl::string_view FileName(absl::string_view path) { return path.substr(path.rfind('/') + 1); }

// The hook of gRPC: writes one line to the log, with the number of lines that kMinInterval has kept
// out since the last one. Any thread.
void LogGrpc(gpr_log_func_args* args) {
  static LogRate* const rate = new LogRate(kMinInterval);
  const LogLevel level = LevelOf(args->severity);
  const bool asked_for = g_asked_for.load(std::memory_order_relaxed);
  int64_t n_left_out = 0;
  if (!asked_for) {
    if (!LogsLevel(level)) return;
    const std::optional<int64_t> taken = rate->Take();
    if (!taken.has_value()) return;
    n_left_out = *taken;
  }
  LogAs("grpc", level, args->message,
        {{"file", FileName(args->file)}, {"line", args->line}, {"left_out", n_left_out}});
}

// The hook of protobuf. Any thread.
void LogProtobuf(google::protobuf::LogLevel severity, const char* file, int line,
                 const std::string& message) {
  const LogLevel level =
      severity == google::protobuf::LOGLEVEL_FATAL ? LogLevel::kError : LogLevel::kDebug;
  if (LogsLevel(level)) {
    LogAs("protobuf", level, message, {{"file", FileName(file)}, {"line", line}});
  }
}

}  // namespace

void TakeOverRpcLogs(LogLevel error_level) {
  g_error_level = error_level;
  g_asked_for = std::getenv("GRPC_VERBOSITY") != nullptr;
  gpr_set_log_function(LogGrpc);
  google::protobuf::SetLogHandler(LogProtobuf);
}

}  // namespace bora
