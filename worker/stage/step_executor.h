// What a worker needs of a rank, whatever computes its steps.
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
  int pp_size = 1;
  Mesh* mesh = nullptr;  // linked as MeshPeers says; null for a group of one rank
  int64_t link_buffer_bytes = MeshOptions().ring_bytes;
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // for links that a device makes itself
};

// One rank of a group: executes the coordinator's plans in order. Owned by the rank thread: every
// call comes from it. Mesh::Abort from another thread ends a call that waits for a peer.
class StepExecutor {
 public:
  StepExecutor() = default;
  virtual ~StepExecutor() = default;
  StepExecutor(const StepExecutor&) = delete;
  StepExecutor& operator=(const StepExecutor&) = delete;

  virtual const ModelConfig& config() const = 0;
  virtual const RankShape& shape() const = 0;

  // Starts with no slots and no tokens. Memory is allocated here if it is not there already.
  // INVALID_ARGUMENT names a limit or a number that does not fit the rank, RESOURCE_EXHAUSTED the
  // memory that is missing; the rank is then in no epoch. CHECK-fails when an epoch is on.
  // options.mesh must live until EndEpoch.
  virtual absl::Status BeginEpoch(const EpochOptions& options) = 0;

  // Forgets the epoch and its unfinished plans and lets go of its mesh. What was loaded stays. Fine
  // without an epoch.
  virtual void EndEpoch() = 0;

  // Begins to execute one plan, in the order of plans; fewer than max_begun() may be unfinished.
  //
  //   FAILED_PRECONDITION  no epoch, another epoch than the plan's (nothing has changed then), or
  //                        an earlier plan of this epoch has failed.
  //   INVALID_ARGUMENT     the plan breaks a rule of model/step/step.h.
  //   others               from the mesh.
  //
  // After any error except the epoch mismatch the epoch is lost: EndEpoch, and BeginEpoch with a
  // new mesh.
  virtual absl::Status Begin(const StepPlan& plan) = 0;

  // How many plans may be begun and not finished: more than one where a device works by itself.
  virtual int max_begun() const { return 1; }

  // Whether Finish would not wait. A plan must be unfinished.
  virtual bool IsDone() const { return true; }

  // Waits for the oldest unfinished plan; its result on the sampler (RankPlace::is_sampler),
  // nothing on other ranks. Errors as of Begin. A plan must be unfinished.
  virtual absl::StatusOr<std::optional<StepResult>> Finish() = 0;

  // Begin and Finish; no other plan may be unfinished.
  absl::StatusOr<std::optional<StepResult>> Execute(const StepPlan& plan) {
    RETURN_IF_ERROR(Begin(plan));
    return Finish();
  }
};

}  // namespace bora
