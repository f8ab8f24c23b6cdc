// The command line of bora-coordinator.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "base/flags/command_line.h"
#include "coordinator/server_config.h"

namespace bora {

// What the flags say, with their defaults.
struct CoordinatorFlags {
  ServerFlags server;
  std::string listen = "127.0.0.1:50051";
  std::string worker_listen = "127.0.0.1:50052";
  bool insecure_listen = false;
  std::string worker_credential_file;  // empty: the environment variable
  // With what follows it, a drain ends within the 30 s after which Kubernetes kills.
  absl::Duration shutdown_timeout = absl::Seconds(25);
  std::string log_level = "info";
  std::string log_format = "json";
  std::string access_log = "all";
  double access_log_sample = 1;
  bool exit_with_parent = false;
};

// The program's flags; they set `flags`, which outlives the result.
CommandLine CoordinatorCommandLine(CoordinatorFlags* flags);

}  // namespace bora
