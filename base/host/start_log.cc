#include "base/host/start_log.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "base/build_info.h"
#include "base/host/cgroup.h"
#include "base/host/host_cpus.h"

namespace bora {

void StartLog(absl::string_view component, const std::string& level, const std::string& format) {
  LogLevel min_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kJson;
  ParseLogLevel(level, &min_level);
  ParseLogFormat(format, &log_format);
  InitLog(component, min_level, log_format);
  StartLogWriter();
}

void LogConfiguration(const std::vector<std::pair<std::string, std::string>>& settings,
                      std::vector<LogField> facts) {
  rlimit descriptors = {};
  getrlimit(RLIMIT_NOFILE, &descriptors);
  std::vector<LogField> fields = {{"build", BuildId()},
                                  {"pid", static_cast<int64_t>(getpid())},
                                  {"cpus", UsableCpuCount()},
                                  {"descriptor_limit", static_cast<int64_t>(descriptors.rlim_cur)}};
  const std::optional<CgroupMemory> memory = LeastCgroupMemory(kCgroupRoot, CgroupMembership());
  if (memory.has_value()) {
    fields.emplace_back("memory_limit_bytes", memory->limit_bytes);
    fields.emplace_back("memory_left_bytes", memory->left_bytes);
  }
  for (LogField& fact : facts) fields.push_back(std::move(fact));
  for (const auto& [name, text] : settings) fields.emplace_back(name, text);
  LogList(LogLevel::kInfo, "configuration", fields);
}

}  // namespace bora
