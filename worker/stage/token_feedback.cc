#include "worker/stage/token_feedback.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/stage/step_inputs.h"

namespace bora {
namespace {

// Mesh adds a header of this size to every message; "Capacity" in mesh.h counts it.
constexpr int64_t kMessageHeaderBytes = 16;
// The most messages outstanding: more than any pipeline has plans in flight.
constexpr int64_t kMaxWindow = 64;

// Steps are compared by their low bits; the epoch is the mesh's.
int32_t StepTag(int64_t step_id) { return static_cast<int32_t>(step_id & 0x7fffffff); }

}  // namespace

absl::StatusOr<int64_t> TokenFeedback::Window(const GroupLimits& limits,
                                              int64_t link_buffer_bytes) {
  const int64_t message_bytes =
      (1 + MaxRows(limits)) * static_cast<int64_t>(sizeof(int32_t)) + kMessageHeaderBytes;
  if (message_bytes > link_buffer_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("group limits: the sampled tokens of one plan take ", message_bytes,
                     " bytes, the buffer of a link has ", link_buffer_bytes));
  }
  return std::min(kMaxWindow, link_buffer_bytes / message_bytes);
}

TokenFeedback::TokenFeedback(const RankPlace& place, const GroupLimits& limits, Mesh* mesh,
                             int64_t window)
    : place_(place),
      mesh_(mesh),
      last_tokens_(limits.max_num_seqs, 0),
      sampled_step_(limits.max_num_seqs, -1),
      ring_(is_receiver() ? window : 0) {
  CHECK(mesh != nullptr || place.n_ranks() == 1) << place.n_ranks() << " ranks without a mesh";
  CHECK_GE(window, 1);
  for (Outstanding& outstanding : ring_) outstanding.slots.reserve(MaxRows(limits));
  message_.reserve(1 + MaxRows(limits));
}

absl::Status TokenFeedback::Prepare(const StepPlan& plan) {
  if (!is_receiver()) return absl::OkStatus();
  // The latest step of which this plan embeds a token; messages arrive in the order of steps.
  int64_t needed_step = -1;
  for (const StepRow& row : plan.rows) {
    if (row.use_last_sampled) needed_step = std::max(needed_step, sampled_step_[row.slot]);
  }
  const int64_t window = static_cast<int64_t>(ring_.size());
  while (n_received_ < n_expected_ && (ring_[n_received_ % window].step_id <= needed_step ||
                                       n_expected_ - n_received_ == window)) {
    RETURN_IF_ERROR(ReceiveOldest());
  }
  return absl::OkStatus();
}

absl::Status TokenFeedback::Finish(const StepPlan& plan, absl::Span<const SampledToken> sampled) {
  if (place_.is_sampler()) return Publish(plan, sampled);
  if (!is_receiver()) return absl::OkStatus();
  // Prepare has kept one entry free.
  Outstanding& next = ring_[n_expected_ % static_cast<int64_t>(ring_.size())];
  next.step_id = plan.step_id;
  next.slots.clear();
  for (const StepRow& row : plan.rows) {
    if (!row.sample) continue;
    next.slots.push_back(row.slot);
    sampled_step_[row.slot] = plan.step_id;
  }
  if (next.slots.empty()) return absl::OkStatus();
  ++n_expected_;
  return place_.pp_size == 1 ? ReceiveOldest() : absl::OkStatus();
}

absl::Status TokenFeedback::ReceiveOldest() {
  const Outstanding& oldest = ring_[n_received_ % static_cast<int64_t>(ring_.size())];
  message_.resize(1 + oldest.slots.size());
  RETURN_IF_ERROR(mesh_->Recv(place_.sampler(), MutableBytesOf(absl::MakeSpan(message_))));
  if (message_[0] != StepTag(oldest.step_id)) {
    return absl::InternalError(absl::StrCat("sampled tokens of step ", message_[0],
                                            " arrived, expected those of step ",
                                            StepTag(oldest.step_id)));
  }
  for (size_t i = 0; i < oldest.slots.size(); ++i) {
    last_tokens_[oldest.slots[i]] = message_[i + 1];
  }
  ++n_received_;
  return absl::OkStatus();
}

absl::Status TokenFeedback::Publish(const StepPlan& plan, absl::Span<const SampledToken> sampled) {
  if (sampled.empty()) return absl::OkStatus();
  message_.assign(1, StepTag(plan.step_id));
  for (const SampledToken& token : sampled) {
    // -1, not drawn, becomes 0: the next plan may embed it before the request has been failed.
    const int32_t id = std::max(token.token_id, 0);
    last_tokens_[token.slot] = id;
    message_.push_back(id);
  }
  for (int i = 0; i < place_.tp_size; ++i) {
    const int receiver = place_.RankOf(0, i);
    if (receiver == place_.rank()) continue;
    RETURN_IF_ERROR(mesh_->Send(receiver, BytesOf(absl::MakeConstSpan(message_))));
  }
  return absl::OkStatus();
}

}  // namespace bora
