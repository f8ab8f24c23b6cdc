// Makes the ranks of one kind of device. A worker has one loader and asks it for a rank when the
// coordinator tells which part of a model the worker serves.
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

struct LoadedRank {
  std::unique_ptr<StepExecutor> rank;
  LoadedModel loaded;
};

// Owned by the rank thread, except DeviceName and CollectivesName.
class RankLoader {
 public:
  RankLoader() = default;
  virtual ~RankLoader() = default;
  RankLoader(const RankLoader&) = delete;
  RankLoader& operator=(const RankLoader&) = delete;

  // The device, for people: "cpu (avx512, 4 threads)". Thread-safe.
  virtual std::string DeviceName() const = 0;

  // The library that its ranks exchange data with, and its version if all ranks of a group must
  // have the same one: "host", "NCCL 2.28.9", or "none" if ranks have to be alone. Thread-safe.
  virtual std::string CollectivesName() const { return "host"; }

  // Whether sums over the tensor group go over the host's links.
  virtual bool SumsOnHost() const { return true; }

  // Tells the numeric local address on which this worker's ranks reach others, and are reached.
  // Called once, before the first Load, on the thread that made the loader.
  virtual void UseAddress(absl::string_view) {}

  // Loads a rank. REQUIRES: the rank that was loaded before is destroyed; the new one is destroyed
  // before the loader. Of the options, progress and cancelled count. INVALID_ARGUMENT names what
  // does not fit the model; other errors are those of the files and of memory.
  virtual absl::StatusOr<LoadedRank> Load(const LoadModel& load, const LoadOptions& options) = 0;

  // Tells that the loaded rank is number `place` of the n_ranks ranks of its group on this host.
  virtual void ShareHost(int place, int n_ranks) = 0;
};

// Opens the weights that `load` names, which are read from files or made up.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenSource(const LoadModel& load);

// The types that `load` names. INVALID_ARGUMENT names the one that does not exist.
absl::StatusOr<Precision> ParsePrecision(const LoadModel& load);

// The share of the model that `load` names. INVALID_ARGUMENT names the numbers that do not fit the
// model or each other.
absl::StatusOr<RankShape> ShapeFor(const ModelConfig& config, const LoadModel& load);

// The most that plans of the group will have, as far as `load` tells: n_blocks is not among it.
GroupLimits LimitsFor(const ModelConfig& config, const LoadModel& load);

}  // namespace bora
