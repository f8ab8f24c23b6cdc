// The command `bora plan`: compares the layouts (tensor parallel, pipeline parallel, replicas) in
// which a number of GPUs can serve a model, and recommends one. Needs no server, and of the model
// only its config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/commands.h"

namespace bora {

// The flags of `plan` as given. Amounts and rates are texts with units. RunPlan parses and checks
// all values. The defaults of gpu_bandwidth and gpu_tflops are for an H200. A plain value.
struct PlanOptions {
  std::string model;                     // directory of the model, with config.json or params.json
  int64_t n_gpus = 0;                    // [1, kMaxPlannedDevices]
  std::optional<int64_t> gpus_per_host;  // divides n_gpus; default: 8, or n_gpus if fewer
  std::string gpu_memory;                // of one GPU, such as "141GB"; required
  double gpu_memory_utilization = 0.9;   // share that a worker takes, (0, 1]
  std::string gpu_bandwidth = "4300GB/s";  // of one GPU's memory
  double gpu_tflops = 790;                 // bf16 TFLOP/s of one GPU, > 0
  std::string interconnect = "365GB/s";    // of one GPU in a collective inside a host
  std::string network = "400Gb/s";         // of one host to other hosts
  // Tokens of a request, prompt and completion; default: 8192, or the model's context if shorter.
  std::optional<int64_t> context;
  // Sequences decoding at once over all replicas; default: 16 per GPU.
  std::optional<int64_t> batch;
  // "throughput": most tokens per second of all replicas; "latency": least time between the tokens
  // of a sequence that is alone.
  std::string objective = "throughput";
};

// Prints the layouts that fit with their predicted memory and speed, the other layouts with the
// reason, and the recommended layout as flags of bora-coordinator; with --json all of it as one
// object. Returns kExitOk; kExitUsage if a flag is wrong or the directory has no supported config;
// kExitFailed if no layout fits.
int RunPlan(const GlobalOptions& global, const PlanOptions& options);

}  // namespace bora
