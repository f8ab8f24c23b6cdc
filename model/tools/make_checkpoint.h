// Writes checkpoints of made-up weights: for tests, load tests and loader benchmarks.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "model/config.h"

namespace bora {

struct MakeCheckpointOptions {
  CheckpointLayout layout = CheckpointLayout::kHuggingFace;
  FileDType dtype = FileDType::kBf16;  // kF32, kF16 or kBf16
  uint64_t seed = 0;
  int n_shards = 1;  // files; several need an index (HF) or numbered names (Mistral)
};

// Writes config.json or params.json and the safetensors files to `dir`, which is created and must
// not hold anything yet (ALREADY_EXISTS). The values are those of DummyWeights with the same seed,
// rounded to `dtype`. Streams: holds one block of rows at a time. INVALID_ARGUMENT when the config
// or the options do not fit; on an I/O error the partial directory stays and the message names it.
absl::Status WriteRandomCheckpoint(const ModelConfig& config, const MakeCheckpointOptions& options,
                                   const std::string& dir);

}  // namespace bora
