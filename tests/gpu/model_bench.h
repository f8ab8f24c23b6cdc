// A whole model on one GPU, as a worker loads it, and what the benchmark bora-bench-gpu-model has
// it do.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/planning/roofline.h"
#include "tests/bench/engine_driver.h"
#include "tests/worker/local_group.h"
#include "worker/cuda/cuda_rank_loader.h"

namespace bora {

struct ModelBenchOptions {
  ModelConfig config;
  std::string directory;  // that has its config.json; weights are made up
  bool deterministic = true;
  double memory_utilization = 0.9;
  int32_t chunk = 2048;          // tokens of a step
  int32_t max_num_seqs = 256;    // of the offline load
  DeviceLimits device;           // for floors; 0 in one of its first two: none
  std::vector<int64_t> lengths;  // tokens of one sequence that will be asked for
};

// Seconds of something that was done several times, and what it takes at least.
struct BenchSamples {
  std::vector<double> seconds;
  double floor_seconds = 0;  // by model/planning/roofline.h; 0: unknown
  double busy = 0;           // part of the time in which the device worked
  double n_tokens = 0;       // that one sample generates
};

// Owned by one thread.
class ModelBench {
 public:
  // UNAVAILABLE without a GPU or, unless deterministic, without cuBLASLt; other errors are those of
  // RankLoader.
  static absl::StatusOr<std::unique_ptr<ModelBench>> Load(const ModelBenchOptions& options);

  double load_seconds() const { return load_seconds_; }
  // KV blocks that the memory has room for.
  int64_t max_blocks() const { return max_blocks_; }

  // Gives the memory of what was measured last back to the GPU, for another model beside this one.
  absl::Status Shrink() { return Begin(/*n_sequences=*/1, /*n_tokens=*/2); }

  // All that follow: RESOURCE_EXHAUSTED when the KV cache is too small.
  //
  // Steps of so many sequences around so many tokens of context, a sample each.
  absl::StatusOr<BenchSamples> Decode(int n_sequences, int n_context);
  // A prompt of so many tokens, a sample each time.
  absl::StatusOr<BenchSamples> Prefill(int n_tokens);
  // One request, from its prompt to its last token, a sample each time.
  absl::StatusOr<BenchSamples> Generate(int n_prompt_tokens, int n_output_tokens);
  // As many such requests at once as have room (max_num_seqs at most), planned by the coordinator's
  // scheduler, until the last one ends: one sample. The floor is that of the plans it made.
  absl::StatusOr<BenchSamples> Offline(int n_prompt_tokens, int n_output_tokens);

 private:
  explicit ModelBench(const ModelBenchOptions& options);

  // Begins an epoch for so many sequences of so many tokens.
  absl::Status Begin(int n_sequences, int n_tokens);
  double FloorSeconds(const PlanWork& asked) const;
  double FloorSeconds(const DrivenSteps& driven) const;

  const ModelBenchOptions options_;
  const RankShape shape_;
  const StageRoofline roofline_;
  double load_seconds_ = 0;
  int64_t max_blocks_ = 0;
  std::unique_ptr<RankLoader> loader_;  // outlives the rank
  std::unique_ptr<LocalGroup> group_;
};

}  // namespace bora
