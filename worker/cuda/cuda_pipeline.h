// The transfers between the pipeline stages of GPUs in a step: the residual stream from stage to
// stage, and sampled tokens from the last stage to the first, each on its own communicator and its
// own stream. The host queues all transfers and waits for none of them.
//
// Residuals. A receive is queued before the work that needs it, into one of two buffers, so that
// the activations of a step can arrive while the step before is computed. A residual that is sent
// is first copied to one of two buffers, so that the next step can begin. A buffer is used again
// once the event recorded after its last use has passed: two credits for each edge and direction.
//
// Sampled tokens. After a plan that draws tokens, the sampler sends its whole array of last tokens
// by slot, so that the array of plan j tells every token drawn up to plan j. A first-stage rank
// waits for the array of the last plan that its own plan needs, and for no later one, so that the
// pipeline stays full.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "model/planning/partition.h"
#include "model/step/step.h"
#include "worker/cuda/cuda_links.h"
#include "worker/stage/collectives.h"

namespace bora {

// State of one epoch on one rank. Owned by the rank thread. Errors of Enter and Leave are NCCL's.
class CudaPipeline {
 public:
  // Bytes of device memory that Create allocates at most, for a rank of this shape.
  static int64_t DeviceBytes(const RankShape& shape, const GroupLimits& limits, int64_t dim);

  // Allocates buffers for `limits`; RESOURCE_EXHAUSTED if device memory is short. dim: floats of a
  // token's residual. stream: the stage computes on it. It and `links` must outlive the result.
  static absl::StatusOr<CudaPipeline> Create(const RankPlace& place, const GroupLimits& limits,
                                             int64_t dim, CudaLinks* links,
                                             const CudaStream* stream);

  // To be called before the work of a plan is queued; for plans with tokens only, as is Leave.
  // Queues receives, so that the work queued after it finds: on the first stage, every token that
  // the plan embeds in last_tokens, int32 [max_num_seqs]; on other stages, the output of the stage
  // before in residual, [n_tokens, dim]. Both arrays lie in device memory.
  absl::Status Enter(const StepPlan& plan, int64_t n_tokens, int32_t* last_tokens, float* residual);

  // To be called after the work of the plan is queued. Queues the sends: of residual to the next
  // stage, except on the last; of last_tokens to the first stage, on the sampler if the plan draws.
  absl::Status Leave(const StepPlan& plan, int64_t n_tokens, const int32_t* last_tokens,
                     const float* residual);

  // Number of plans for which Leave has succeeded.
  int64_t n_plans() const { return n_plans_; }

  // Whether all sends of the plan_idx-th plan, counted from 0 as n_plans() does, are complete;
  // receives are complete if the plan's work is.
  // REQUIRES: it is one of the last two plans.
  bool HasSent(int64_t plan_idx) const;

 private:
  // The residuals between this stage and one of its neighbours.
  struct Edge {
    CudaStream stream;                  // of the transfers
    std::array<CudaBuffer, 2> buffers;  // float [max_num_batched_tokens, dim] each
    std::array<CudaEvent, 2> filled;    // the buffer has its contents
    std::array<CudaEvent, 2> emptied;   // the buffer may be filled again
    int64_t n_used = 0;                 // transfers queued; the i-th uses buffer i % 2
  };
  // The most arrays of sampled tokens whose receive is queued but which are not yet taken.
  static constexpr int64_t kFeedbackWindow = 16;
  // The sampled tokens. Array i uses place i % kFeedbackWindow.
  struct Feedback {
    CudaStream stream;                               // of the transfers
    CudaBuffer buffer;                               // int32 [kFeedbackWindow, max_num_seqs]
    std::array<CudaEvent, kFeedbackWindow> filled;   // the place has its contents
    std::array<CudaEvent, kFeedbackWindow> emptied;  // the place may be filled again
    int64_t n_announced = 0;                         // arrays whose transfer is queued
    int64_t n_taken = 0;  // receivers: arrays that were copied to last_tokens or skipped
    std::array<int64_t, kFeedbackWindow> step_ids{};  // receivers: the step that each array follows
  };

  CudaPipeline(const RankPlace& place, const GroupLimits& limits, int64_t dim, CudaLinks* links,
               const CudaStream* stream);

  absl::Status Allocate();
  // Queue the receive of a residual from the stage before, and the send to the stage after.
  absl::Status Receive(int64_t n_tokens, float* residual);
  absl::Status Send(int64_t n_tokens, const float* residual);
  // Takes the arrays of the steps up to `step_id`, and the oldest if there is no room for another:
  // queues the copy of the latest of them to last_tokens. Does nothing if there is none to take.
  void TakeTokens(int64_t step_id, int32_t* last_tokens);
  // Receivers: queues the receive of the array that the sampler sends after `plan`.
  absl::Status ExpectTokens(const StepPlan& plan);
  // Sampler: queues the send of its array to all receivers.
  absl::Status PublishTokens(const int32_t* last_tokens);

  // With one stage the tensor group broadcasts the tokens instead (CudaRank::QueueHead).
  bool receives_tokens() const { return place_.pp_size > 1 && place_.is_first_stage(); }
  bool publishes_tokens() const { return place_.pp_size > 1 && place_.is_sampler(); }
  int64_t tokens_bytes() const;

  RankPlace place_;
  GroupLimits limits_;
  int64_t dim_ = 0;
  CudaLinks* links_ = nullptr;
  const CudaStream* stream_ = nullptr;
  Edge before_;  // from the stage before; unused on the first stage
  Edge after_;   // to the stage after; unused on the last stage
  Feedback feedback_;
  // Receivers: id of the step that drew the last token of each slot, -1 if none. [max_num_seqs]
  std::vector<int64_t> sampled_step_;
  // The sends of a plan, and the places whose `emptied` event tells that they are complete.
  struct Sent {
    bool residual = false;
    bool tokens = false;
    int64_t edge_idx = 0;
    int64_t feedback_idx = 0;
  };
  std::array<Sent, 2> sent_;  // of the last two plans: plan i at i % 2
  int64_t n_plans_ = 0;
};

}  // namespace bora
