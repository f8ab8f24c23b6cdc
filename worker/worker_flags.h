// The command line of bora-worker.
#pragma once

#include <cstdint>
#include <string>

#include "base/flags/command_line.h"

namespace bora {

// What the flags say, with their defaults.
struct WorkerFlags {
  std::string coordinator = "127.0.0.1:50052";
  std::string credential_file;  // empty: the environment variable
  std::string device = "auto";
  int32_t threads = 0;  // 0: as many as the process may use
  bool pin_threads = false;
  std::string isa = "auto";  // a name of kernels/cpu/simd/simd_choice.h
  double gpu_memory_utilization = 0.9;
  bool deterministic = true;
  bool enforce_eager = false;
  std::string bind;  // empty: the address from which this host reaches the coordinator
  std::string log_level = "info";
  std::string log_format = "json";
  bool list_devices = false;
  bool exit_with_parent = false;
};

// The program's flags; they set `flags`, which outlives the result.
CommandLine WorkerCommandLine(WorkerFlags* flags);

}  // namespace bora
