// The command line of bora-worker.
#pragma once

#include <cstdint>
#include <string>

#include "base/flags/command_line.h"

namespace bora {

// The values of the flags, initialised with their defaults; --help (worker_flags.cc) describes
// them. A plain value.
struct WorkerFlags {
  std::string coordinator = "127.0.0.1:50052";
  std::string credential_file;  // empty: BORA_WORKER_CREDENTIAL in the environment
  std::string device = "auto";  // auto, cpu, cuda, cuda:N or sim[:costs]
  int32_t threads = 0;          // of the CPU device; 0: this rank's share of the usable CPUs
  bool pin_threads = false;
  std::string isa = "auto";             // a name of kernels/cpu/simd/simd_choice.h
  double gpu_memory_utilization = 0.9;  // share of the GPU's memory, in (0, 1]
  bool deterministic = true;
  bool enforce_eager = false;  // no graphs
  std::string bind;            // empty: the address from which this host reaches the coordinator
  std::string log_level = "info";
  std::string log_format = "json";
  bool list_devices = false;
  bool exit_with_parent = false;
};

// The program's command line. Parsing it sets *flags, which must outlive the result.
CommandLine WorkerCommandLine(WorkerFlags* flags);

}  // namespace bora
