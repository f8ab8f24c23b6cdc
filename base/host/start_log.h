// What a server does with its log when it starts: the form that the flags say, a writer, and one
// line with everything that it runs with.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/log.h"

namespace bora {

// InitLog and StartLogWriter with the flags' words; words that are none count as the defaults. Call
// from main, with the signals blocked that the process waits for.
void StartLog(absl::string_view component, const std::string& level, const std::string& format);

// The line "configuration": the build, what of this host the process may use (CPUs, descriptors,
// and the memory that its control groups leave, if they limit it), `facts`, and each flag with the
// text that holds, given or default. No flag holds a secret: credentials come from files and from
// the environment.
void LogConfiguration(const std::vector<std::pair<std::string, std::string>>& settings,
                      std::vector<LogField> facts = {});

}  // namespace bora
