// `bora plan`: which layouts a number of GPUs can serve a model in, and which one to take. Needs no
// server and nothing of the model but its config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/commands.h"

namespace bora {

// As flags say it; amounts and rates with their units.
struct PlanOptions {
  std::string model;  // a directory with config.json or params.json
  int64_t n_gpus = 0;
  std::optional<int64_t> gpus_per_host;  // default: 8, or all where there are fewer
  std::string gpu_memory;
  double gpu_memory_utilization = 0.9;
  std::string gpu_bandwidth = "4300GB/s";
  double gpu_tflops = 790;
  std::string interconnect = "365GB/s";
  std::string network = "400Gb/s";
  std::optional<int64_t> context;  // default: 8192, or the model's context where it is shorter
  std::optional<int64_t> batch;    // default: 16 for each GPU
  std::string objective = "throughput";
};

// Prints the layouts, those that do not fit with the reason, and the recommended one as flags, or
// one JSON object. kExitUsage for a flag that is wrong, also a directory without a config that is
// supported; kExitFailed when no layout fits.
int RunPlan(const GlobalOptions& global, const PlanOptions& options);

}  // namespace bora
