// Creates ranks for one kind of device, with the weights of their part of a model. A worker has one
// loader and calls Load when the coordinator tells which part of a model the worker serves.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"
#include "worker/stage/step_executor.h"
#include "worker/weights/precision.h"
#include "worker/weights/weight_reading.h"

namespace bora {

// A rank that is ready for an epoch, and its description for the coordinator.
struct LoadedRank {
  std::unique_ptr<StepExecutor> rank;
  LoadedModel loaded;
};

// Owned by the rank thread, except where a function says otherwise.
class RankLoader {
 public:
  RankLoader() = default;
  virtual ~RankLoader() = default;
  RankLoader(const RankLoader&) = delete;
  RankLoader& operator=(const RankLoader&) = delete;

  // Describes the device for people: "cpu (avx512, 4 threads)". Thread-safe.
  virtual std::string DeviceName() const = 0;

  // Names the library through which ranks of this loader exchange data, with its version if all
  // ranks of a group must have the same version: "host" (this program's own links), "NCCL 2.28.9",
  // or "none" if a rank can only be alone in its group. Thread-safe.
  virtual std::string CollectivesName() const { return "host"; }

  // Whether ranks sum over their tensor group through the host's links (Mesh::AllReduceSum); the
  // worker then gives the links buffers for such sums.
  virtual bool SumsOnHost() const { return true; }

  // Receives the numeric local address through which this worker's ranks and other ranks reach each
  // other. The worker calls it once, before the first Load, on the thread that created the loader.
  virtual void UseAddress(absl::string_view) {}

  // Loads the weights that `load` names and returns a rank with them. Blocks until they are loaded.
  // Of the options only progress and cancelled are used; the loader decides on the rest.
  // INVALID_ARGUMENT names what does not fit the model or the device; RESOURCE_EXHAUSTED names the
  // memory that is short; CANCELLED; other errors are those of the checkpoint's files. REQUIRES:
  // the rank of the last Load has been destroyed, and the new one is destroyed before the loader.
  virtual absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) = 0;

  // Tells the loader, when a group is joined, that n_ranks ranks of the group run on this host, and
  // that the loaded rank is number `place` of them, 0 <= place < n_ranks. A loader whose ranks
  // share CPUs divides them accordingly. REQUIRES: a rank is loaded.
  virtual void ShareHost(int place, int n_ranks) = 0;
};

// Opens the weights that `load` names: the checkpoint in model_path, or with dummy_weights
// generated weights for the config in model_path. Logs a warning if the dtype rounds stored
// weights. Errors are those of Checkpoint::Open or ReadModelDirectory.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenSource(const LoadModel& load);

// Returns the number formats that `load` names. INVALID_ARGUMENT names the format that does not
// exist.
absl::StatusOr<Precision> ParsePrecision(const LoadModel& load);

// Returns the part of the model that a rank gets from `load`: its layers, heads, FFN columns and
// vocabulary. INVALID_ARGUMENT names the numbers that do not fit the model or each other.
absl::StatusOr<RankShape> ShapeFor(const ModelConfig& config, const LoadModel& load);

// Returns the limits of the group's plans as far as `load` tells them: all except n_blocks, which
// stays 0.
GroupLimits LimitsFor(const ModelConfig& config, const LoadModel& load);

}  // namespace bora
