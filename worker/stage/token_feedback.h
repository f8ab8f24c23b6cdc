// Sends sampled tokens from the rank that samples to the ranks that embed, so that a plan with
// StepRow::use_last_sampled can be executed before the coordinator has seen the token.
//
// The sampler sends one message per plan that draws tokens, {step id, token ids in row order} as
// int32, to every other rank of the first stage. A first-stage rank receives it at this time:
//
//   One stage: at the end of the same plan. The link between two tensor ranks also carries their
//   collectives in order, so that the message must be received before those of the next plan.
//
//   Several stages: as late as possible, so that plans that do not need the message are not held
//   up: before a plan that embeds one of its tokens, or when `window` messages are outstanding. The
//   link from the last stage to the first carries nothing else.
//
// There is no deadlock. A rank of the first stage that waits for the message of plan j has already
// sent the activations and stage times of every plan up to j, so that the stages after it can
// finish j without it, provided that the sampler's own sends do not block. They do not block,
// because at most `window` messages are not yet received and the buffer of a link holds that many.
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
  // How many messages may be outstanding under `limits`: as many as the buffer of a link holds, at
  // most 64. link_buffer_bytes: MeshOptions::ring_bytes of this epoch. INVALID_ARGUMENT if the
  // buffer does not hold even one message.
  static absl::StatusOr<int64_t> Window(const GroupLimits& limits, int64_t link_buffer_bytes);

  // `window` comes from Window. `mesh` may be null if the group is one rank; otherwise it must
  // outlive this object.
  TokenFeedback(const RankPlace& place, const GroupLimits& limits, Mesh* mesh, int64_t window);

  // To be called before the tokens of `plan` are embedded: receives the messages that it needs, and
  // blocks until they have come. Errors are those of the mesh; INTERNAL if a message is of another
  // step than expected.
  absl::Status Prepare(const StepPlan& plan);

  // To be called after `plan` has passed through the stage. sampled: on the sampler the tokens
  // drawn in this plan in row order; empty on all other ranks. Errors as of Prepare.
  absl::Status Finish(const StepPlan& plan, absl::Span<const SampledToken> sampled);

  // For each slot the token that it sampled last, [max_num_seqs]. After Prepare it is valid for the
  // slots whose rows in the plan have use_last_sampled. It is 0 if the token was not drawn because
  // its logits were not finite; that request has failed anyway.
  absl::Span<const int32_t> last_tokens() const { return last_tokens_; }

 private:
  // A message that the sampler has sent or will send and that this rank has not yet received.
  struct Outstanding {
    int64_t step_id = 0;
    std::vector<int32_t> slots;  // of its tokens, in row order
  };

  // The sampler itself knows the tokens already.
  bool is_receiver() const { return place_.is_first_stage() && !place_.is_sampler(); }
  // Receives the oldest outstanding message into last_tokens_.
  absl::Status ReceiveOldest();
  // Sampler: takes the tokens into last_tokens_ and sends them to the receivers.
  absl::Status Publish(const StepPlan& plan, absl::Span<const SampledToken> sampled);

  const RankPlace place_;
  Mesh* const mesh_;
  std::vector<int32_t> last_tokens_;  // [max_num_seqs]
  // Receivers: id of the step in which each slot sampled last, -1 if none. [max_num_seqs]
  std::vector<int64_t> sampled_step_;
  // Receivers: message i of the epoch is at i % window while it is outstanding. [window]
  std::vector<Outstanding> ring_;
  int64_t n_received_ = 0;        // messages of this epoch that were received
  int64_t n_expected_ = 0;        // messages of this epoch that were or will be sent
  std::vector<int32_t> message_;  // [1 + number of draws], reused
};

}  // namespace bora
