// The command line of bora-coordinator.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "base/flags/command_line.h"
#include "coordinator/server_config.h"

namespace bora {

// The values of the flags, initially their defaults. The help texts in coordinator_flags.cc say
// what each flag means.
struct CoordinatorFlags {
  ServerFlags server;
  std::string listen = "127.0.0.1:50051";         // clients' port: host:port or unix:PATH
  std::string worker_listen = "127.0.0.1:50052";  // workers' port
  bool insecure_listen = false;
  std::string worker_credential_file;  // empty: BORA_WORKER_CREDENTIAL in the environment
  // How long requests may take to end after SIGTERM. Together with the steps that follow, a drain
  // ends within the 30 s after which Kubernetes kills the process.
  absl::Duration shutdown_timeout = absl::Seconds(25);
  std::string log_level = "info";
  std::string log_format = "json";
  std::string access_log = "all";  // an AccessLogMode
  double access_log_sample = 1;    // [0, 1]
  bool exit_with_parent = false;
};

// The program's command line. Parsing it sets `flags`, which must outlive the result.
CommandLine CoordinatorCommandLine(CoordinatorFlags* flags);

}  // namespace bora
