// What crosses between the pipeline stages of GPUs in a step: the residual stream from stage to
// stage, and sampled tokens from the last stage to the first, each on a communicator and a stream
// of its own. The host queues it all and waits for none of it.
//
// Receives are queued before the work that needs them, into one of two buffers, so that a step's
// activations can arrive while the step before is computed; what is sent is copied aside first, so
// that the next step can begin. A buffer is used again when the event behind its last use has
// passed: these are the credits of an edge, two a direction.
//
// Sampled tokens are the sampler's whole array of last tokens by slot, as it is after a plan that
// drew some: whoever has that of plan j knows every token drawn up to j. A first-stage rank takes
// the array of the last plan that its own plan needs, and no later one, so the pipeline stays full.
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

// State of one epoch on one rank. Owned by the rank thread. Errors of its functions are NCCL's.
class CudaPipeline {
 public:
  // Device memory that Create allocates at most.
  static int64_t DeviceBytes(const RankShape& shape, const GroupLimits& limits, int64_t dim);

  // `links` and `stream`, on which the stage computes, outlive it. RESOURCE_EXHAUSTED.
  static absl::StatusOr<CudaPipeline> Create(const RankPlace& place, const GroupLimits& limits,
                                             int64_t dim, CudaLinks* links,
                                             const CudaStream* stream);

  // Before the work of a plan with tokens is queued. last_tokens: int32 [max_num_seqs] of the
  // device; on the first stage it has on return every token that the plan embeds. residual:
  // [n_tokens, dim]; on other stages it has the output of the stage before.
  absl::Status Enter(const StepPlan& plan, int64_t n_tokens, int32_t* last_tokens, float* residual);

  // After it: sends residual and, from the sampler, last_tokens on.
  absl::Status Leave(const StepPlan& plan, int64_t n_tokens, const int32_t* last_tokens,
                     const float* residual);

  // Plans that have entered and left.
  int64_t n_plans() const { return n_plans_; }

  // Whether all that the plan_idx-th of them sends has left; one of the last two. What this rank
  // receives is done when its work is.
  bool HasSent(int64_t plan_idx) const;

 private:
  // What one direction of an edge needs.
  struct Edge {
    CudaStream stream;
    std::array<CudaBuffer, 2> buffers;
    std::array<CudaEvent, 2> filled;   // the buffer has its contents
    std::array<CudaEvent, 2> emptied;  // it may be filled again
    int64_t n_used = 0;
  };
  // Arrays of sampled tokens that were sent or announced and not taken.
  static constexpr int64_t kFeedbackWindow = 16;
  struct Feedback {
    CudaStream stream;
    CudaBuffer buffer;  // int32 [kFeedbackWindow, max_num_seqs]
    std::array<CudaEvent, kFeedbackWindow> filled;
    std::array<CudaEvent, kFeedbackWindow> emptied;
    int64_t n_announced = 0;
    int64_t n_taken = 0;
    std::array<int64_t, kFeedbackWindow> step_ids{};
  };

  CudaPipeline(const RankPlace& place, const GroupLimits& limits, int64_t dim, CudaLinks* links,
               const CudaStream* stream);

  absl::Status Allocate();
  absl::Status Receive(int64_t n_tokens, float* residual);
  absl::Status Send(int64_t n_tokens, const float* residual);
  // Takes the arrays of plans up to `step_id`, and the oldest when there is no room for another.
  void TakeTokens(int64_t step_id, int32_t* last_tokens);
  absl::Status ExpectTokens(const StepPlan& plan);
  absl::Status PublishTokens(const int32_t* last_tokens);

  bool receives_tokens() const { return place_.pp_size > 1 && place_.is_first_stage(); }
  bool publishes_tokens() const { return place_.pp_size > 1 && place_.is_sampler(); }
  int64_t tokens_bytes() const;

  RankPlace place_;
  GroupLimits limits_;
  int64_t dim_ = 0;
  CudaLinks* links_ = nullptr;
  const CudaStream* stream_ = nullptr;
  Edge before_;
  Edge after_;
  Feedback feedback_;
  std::vector<int64_t> sampled_step_;  // [max_num_seqs] step that drew the slot's last token
  struct Sent {
    bool residual = false;
    bool tokens = false;
    int64_t edge_idx = 0;
    int64_t feedback_idx = 0;
  };
  std::array<Sent, 2> sent_;  // of the last two plans
  int64_t n_plans_ = 0;
};

}  // namespace bora
