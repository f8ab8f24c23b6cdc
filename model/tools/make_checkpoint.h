// Writes checkpoints of generated weights, for tests, load tests and benchmarks of loading.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "model/config.h"

namespace bora {

// What to write. A plain value.
struct MakeCheckpointOptions {
  CheckpointLayout layout = CheckpointLayout::kHuggingFace;
  FileDType dtype = FileDType::kBf16;  // kF32, kF16 or kBf16
  uint64_t seed = 0;                   // of the generated weights
  int n_shards = 1;  // number of safetensors files, >= 1; several get numbered names and an index
};

// Writes config.json or params.json and the safetensors files to the folder `dir`, which is created
// if it does not exist. The values are those of DummyWeights with the same seed, rounded to
// `dtype`. Holds one block of rows in memory at a time. ALREADY_EXISTS if `dir` is not empty;
// INVALID_ARGUMENT if the config or the options are wrong. After an I/O error the partial folder
// stays, and the message names the file.
absl::Status WriteRandomCheckpoint(const ModelConfig& config, const MakeCheckpointOptions& options,
                                   const std::string& dir);

}  // namespace bora
