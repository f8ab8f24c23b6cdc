// The interface of a rank to the worker's agent: CPU, CUDA and simulated ranks implement it.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "model/step/step.h"
#include "worker/comm/mesh.h"
#include "worker/stage/collectives.h"

namespace bora {

struct EpochOptions {
  int64_t epoch = 0;
  GroupLimits limits;
  int pp_size = 1;       // pipeline stages of the group
  Mesh* mesh = nullptr;  // linked with the ranks of MeshPeers; null only for a group of one rank
  int64_t link_buffer_bytes = MeshOptions().ring_bytes;  // the mesh's MeshOptions::ring_bytes
  // For links that a device makes itself, besides the mesh; BeginEpoch fails if they take longer.
  SteadyTime deadline = SteadyTime::InfiniteFuture();
};

// One rank of a group: executes the coordinator's plans in order. Owned by the rank thread, which
// makes every call. Another thread can end a call that waits for a peer, with Mesh::Abort.
class StepExecutor {
 public:
  StepExecutor() = default;
  virtual ~StepExecutor() = default;
  StepExecutor(const StepExecutor&) = delete;
  StepExecutor& operator=(const StepExecutor&) = delete;

  // The model, and the part of it that this rank holds. They never change.
  virtual const ModelConfig& config() const = 0;
  virtual const RankShape& shape() const = 0;

  // Begins an epoch, with all slots closed. Allocates memory, unless memory of the right size is
  // left from an earlier epoch. INVALID_ARGUMENT names the option that does not fit the rank,
  // RESOURCE_EXHAUSTED the memory that is missing; the rank is in no epoch after an error.
  // REQUIRES: no epoch is on (CHECK); options.mesh lives until EndEpoch.
  virtual absl::Status BeginEpoch(const EpochOptions& options) = 0;

  // Ends the epoch, drops its unfinished plans and no longer uses its mesh. The weights stay
  // loaded. Does nothing if no epoch is on.
  virtual void EndEpoch() = 0;

  // Begins to execute one plan; the plans of an epoch come in the order of their step ids.
  // REQUIRES: fewer than max_begun() plans are unfinished.
  //
  //   FAILED_PRECONDITION  No epoch is on, the plan is of another epoch, or an earlier plan of this
  //                        epoch has failed.
  //   INVALID_ARGUMENT     The plan breaks a rule of model/step/step.h.
  //   Other codes are the mesh's or the device's.
  //
  // A plan of another epoch changes nothing. After any other error the epoch is lost, and the
  // caller must call EndEpoch, then BeginEpoch with a new mesh.
  virtual absl::Status Begin(const StepPlan& plan) = 0;

  // How many plans may be begun and not finished: more than one if the device works on its own.
  virtual int max_begun() const { return 1; }

  // Whether Finish would return without waiting.
  // REQUIRES: a plan is unfinished.
  virtual bool IsDone() const { return true; }

  // Waits for the oldest unfinished plan. Returns its result on the sampler (RankPlace::is_sampler)
  // and nothing on other ranks. Errors as of Begin.
  // REQUIRES: a plan is unfinished.
  virtual absl::StatusOr<std::optional<StepResult>> Finish() = 0;

  // Begin, then Finish.
  // REQUIRES: no other plan is unfinished.
  absl::StatusOr<std::optional<StepResult>> Execute(const StepPlan& plan) {
    RETURN_IF_ERROR(Begin(plan));
    return Finish();
  }
};

}  // namespace bora
