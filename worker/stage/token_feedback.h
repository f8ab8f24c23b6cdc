// The way of sampled tokens from the rank that samples to the ranks that embed: it lets a plan with
// use_last_sampled be executed before the coordinator has seen the token.
//
// The sampler sends one message per plan that draws tokens, {step id, token ids in row order}, to
// every rank of the first stage. When a first-stage rank receives it:
//
//   One stage: at the end of the same plan. The link between two tensor ranks also carries their
//   collectives in order, so the message must be taken before the next plan's.
//
//   Several stages: as late as possible, so that plans without need of them are not held up: before
//   a plan that embeds a token of that message, or when `window` messages are outstanding. The link
//   from the last stage to the first carries nothing else.
//
// No deadlock: a rank of the first stage that waits for the feedback of plan j has already sent the
// activations and stage times of every plan up to j, so the stages after it can finish j without
// it, provided that the sampler's own sends do not block. They do not: at most `window` messages
// are unreceived, and window is what the link's buffer holds.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/step/step.h"
#include "worker/comm/mesh.h"
#include "worker/stage/collectives.h"

namespace bora {

// State of one epoch on one rank. Owned by the rank thread.
class TokenFeedback {
 public:
  // How many messages may be outstanding under these limits; INVALID_ARGUMENT when not even one
  // fits into link_buffer_bytes, the MeshOptions::ring_bytes of this epoch.
  static absl::StatusOr<int64_t> Window(const GroupLimits& limits, int64_t link_buffer_bytes);

  // `mesh` may be null when the group is one rank; it outlives this object.
  TokenFeedback(const RankPlace& place, const GroupLimits& limits, Mesh* mesh, int64_t window);

  // Before the plan is embedded: receives what it needs. Errors are those of the mesh.
  absl::Status Prepare(const StepPlan& plan);

  // After the plan has passed through the stage. `sampled`: on the sampler, the plan's draws in row
  // order; empty elsewhere.
  absl::Status Finish(const StepPlan& plan, absl::Span<const SampledToken> sampled);

  // The token that each slot sampled last, as far as Prepare has made it known; 0 in place of one
  // that was not drawn because its logits were not finite, whose request has failed anyway.
  // [max_num_seqs]
  absl::Span<const int32_t> last_tokens() const { return last_tokens_; }

 private:
  // A message that the sampler sends or has sent and that is not yet received.
  struct Outstanding {
    int64_t step_id = 0;
    std::vector<int32_t> slots;
  };

  bool is_receiver() const { return place_.is_first_stage() && !place_.is_sampler(); }
  absl::Status ReceiveOldest();
  absl::Status Publish(const StepPlan& plan, absl::Span<const SampledToken> sampled);

  const RankPlace place_;
  Mesh* const mesh_;
  std::vector<int32_t> last_tokens_;   // [max_num_seqs]
  std::vector<int64_t> sampled_step_;  // [max_num_seqs] step whose message has the slot's token
  std::vector<Outstanding> ring_;      // [window], reused
  int64_t n_received_ = 0;             // messages, over the epoch
  int64_t n_expected_ = 0;             // n_expected_ - n_received_ are in ring_
  std::vector<int32_t> message_;       // [1 + draws], reused
};

}  // namespace bora
