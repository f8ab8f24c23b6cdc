// What a server does with its log at start: applies the log flags, starts the writer thread, and
// logs one line with everything it runs with.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/log.h"

namespace bora {

// InitLog and StartLogWriter with the words of --log-level and --log-format; an unknown word means
// the default (info, json). Call from main, after BlockStopSignals.
void StartLog(absl::string_view component, const std::string& level, const std::string& format);

// Logs the line "configuration": build id, pid, usable CPUs, descriptor limit, memory limit of the
// control groups if there is one, then `facts`, then each flag of `settings` with its value (given
// or default). No flag holds a secret: credentials come from files and the environment.
void LogConfiguration(const std::vector<std::pair<std::string, std::string>>& settings,
                      std::vector<LogField> facts = {});

}  // namespace bora
