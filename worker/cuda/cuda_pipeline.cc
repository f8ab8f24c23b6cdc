#include "worker/cuda/cuda_pipeline.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace bora {
namespace {

int64_t ResidualBytes(int64_t n_tokens, int64_t dim) {
  return n_tokens * dim * static_cast<int64_t>(sizeof(float));
}

// Whether the plan draws tokens, so that the sampler sends an array after it.
bool Draws(const StepPlan& plan) {
  return std::any_of(plan.rows.begin(), plan.rows.end(),
                     [](const StepRow& row) { return row.sample; });
}

}  // namespace

int64_t CudaPipeline::DeviceBytes(const RankShape& shape, const GroupLimits& limits, int64_t dim) {
  const int n_edges = (shape.has_embedding ? 0 : 1) + (shape.has_head ? 0 : 1);
  if (n_edges == 0) return 0;
  return int64_t{2} * n_edges * ResidualBytes(limits.max_num_batched_tokens, dim) +
         kFeedbackWindow * limits.max_num_seqs * static_cast<int64_t>(sizeof(int32_t));
}

CudaPipeline::CudaPipeline(const RankPlace& place, const GroupLimits& limits, int64_t dim,
                           CudaLinks* links, const CudaStream* stream)
    : place_(place),
      limits_(limits),
      dim_(dim),
      links_(links),
      stream_(stream),
      sampled_step_(limits.max_num_seqs, -1) {}

absl::StatusOr<CudaPipeline> CudaPipeline::Create(const RankPlace& place, const GroupLimits& limits,
                                                  int64_t dim, CudaLinks* links,
                                                  const CudaStream* stream) {
  CudaPipeline pipeline(place, limits, dim, links, stream);
  RETURN_IF_ERROR(pipeline.Allocate());
  return pipeline;
}

int64_t CudaPipeline::tokens_bytes() const {
  return limits_.max_num_seqs * static_cast<int64_t>(sizeof(int32_t));
}

absl::Status CudaPipeline::Allocate() {
  for (const auto& [edge, link] :
       {std::pair(&before_, links_->before.get()), std::pair(&after_, links_->after.get())}) {
    if (link == nullptr) continue;
    ASSIGN_OR_RETURN(edge->stream, CudaStream::CreateUrgent());
    for (int i = 0; i < 2; ++i) {
      ASSIGN_OR_RETURN(
          edge->buffers[i],
          CudaBuffer::Allocate(ResidualBytes(limits_.max_num_batched_tokens, dim_), "activations"));
      ASSIGN_OR_RETURN(edge->filled[i], CudaEvent::Create());
      ASSIGN_OR_RETURN(edge->emptied[i], CudaEvent::Create());
    }
  }
  if (links_->feedback == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(feedback_.stream, CudaStream::CreateUrgent());
  ASSIGN_OR_RETURN(feedback_.buffer,
                   CudaBuffer::Allocate(kFeedbackWindow * tokens_bytes(), "sampled tokens"));
  for (int64_t i = 0; i < kFeedbackWindow; ++i) {
    ASSIGN_OR_RETURN(feedback_.filled[i], CudaEvent::Create());
    ASSIGN_OR_RETURN(feedback_.emptied[i], CudaEvent::Create());
  }
  return absl::OkStatus();
}

absl::Status CudaPipeline::Enter(const StepPlan& plan, int64_t n_tokens, int32_t* last_tokens,
                                 float* residual) {
  sent_[n_plans_ % 2] = {};
  if (receives_tokens()) {
    // The latest step of which this plan embeds a token.
    int64_t needed_step = -1;
    for (const StepRow& row : plan.rows) {
      if (row.use_last_sampled) needed_step = std::max(needed_step, sampled_step_[row.slot]);
    }
    TakeTokens(needed_step, last_tokens);
  }
  if (place_.is_first_stage() || n_tokens == 0) return absl::OkStatus();
  return Receive(n_tokens, residual);
}

absl::Status CudaPipeline::Leave(const StepPlan& plan, int64_t n_tokens, const int32_t* last_tokens,
                                 const float* residual) {
  if (!place_.is_last_stage() && n_tokens > 0) RETURN_IF_ERROR(Send(n_tokens, residual));
  if (Draws(plan)) {
    if (receives_tokens()) RETURN_IF_ERROR(ExpectTokens(plan));
    if (publishes_tokens()) RETURN_IF_ERROR(PublishTokens(last_tokens));
  }
  ++n_plans_;
  return absl::OkStatus();
}

absl::Status CudaPipeline::Receive(int64_t n_tokens, float* residual) {
  Edge& edge = before_;
  const int64_t i = edge.n_used++ % 2;
  const int64_t n_bytes = ResidualBytes(n_tokens, dim_);
  // The transfer waits on the edge's stream, so that it can run while stream_ still computes the
  // step before; stream_ waits only where it needs the contents.
  edge.stream.WaitFor(edge.emptied[i]);
  RETURN_IF_ERROR(
      links_->before->Recv(edge.stream.get(), /*peer=*/0, edge.buffers[i].data(), n_bytes));
  edge.filled[i].Record(edge.stream);
  stream_->WaitFor(edge.filled[i]);
  CopyOnDevice(stream_->get(), residual, edge.buffers[i].data(), n_bytes);
  edge.emptied[i].Record(*stream_);
  return absl::OkStatus();
}

absl::Status CudaPipeline::Send(int64_t n_tokens, const float* residual) {
  Edge& edge = after_;
  sent_[n_plans_ % 2].residual = true;
  sent_[n_plans_ % 2].edge_idx = edge.n_used % 2;
  const int64_t i = edge.n_used++ % 2;
  const int64_t n_bytes = ResidualBytes(n_tokens, dim_);
  stream_->WaitFor(edge.emptied[i]);
  CopyOnDevice(stream_->get(), edge.buffers[i].data(), residual, n_bytes);
  edge.filled[i].Record(*stream_);
  edge.stream.WaitFor(edge.filled[i]);
  RETURN_IF_ERROR(
      links_->after->Send(edge.stream.get(), /*peer=*/1, edge.buffers[i].data(), n_bytes));
  edge.emptied[i].Record(edge.stream);
  return absl::OkStatus();
}

void CudaPipeline::TakeTokens(int64_t step_id, int32_t* last_tokens) {
  Feedback& feedback = feedback_;
  // Several arrays may be taken together; the last of them contains the tokens of the others.
  int64_t n_taken = feedback.n_taken;
  while (n_taken < feedback.n_announced &&
         (feedback.step_ids[n_taken % kFeedbackWindow] <= step_id ||
          feedback.n_announced - n_taken == kFeedbackWindow)) {
    ++n_taken;
  }
  if (n_taken == feedback.n_taken) return;
  // Transfers on one stream are in order: if the last array has come, so have those before it.
  const int64_t last = (n_taken - 1) % kFeedbackWindow;
  stream_->WaitFor(feedback.filled[last]);
  CopyOnDevice(stream_->get(), last_tokens, feedback.buffer.data() + last * tokens_bytes(),
               tokens_bytes());
  for (int64_t idx = feedback.n_taken; idx < n_taken; ++idx) {
    feedback.emptied[idx % kFeedbackWindow].Record(*stream_);
  }
  feedback.n_taken = n_taken;
}

absl::Status CudaPipeline::ExpectTokens(const StepPlan& plan) {
  for (const StepRow& row : plan.rows) {
    if (row.sample) sampled_step_[row.slot] = plan.step_id;
  }
  const int64_t i = feedback_.n_announced++ % kFeedbackWindow;
  feedback_.step_ids[i] = plan.step_id;
  feedback_.stream.WaitFor(feedback_.emptied[i]);
  RETURN_IF_ERROR(links_->feedback->Broadcast(feedback_.stream.get(), /*root=*/0,
                                              feedback_.buffer.data() + i * tokens_bytes(),
                                              tokens_bytes()));
  feedback_.filled[i].Record(feedback_.stream);
  return absl::OkStatus();
}

absl::Status CudaPipeline::PublishTokens(const int32_t* last_tokens) {
  const int64_t i = feedback_.n_announced++ % kFeedbackWindow;
  sent_[n_plans_ % 2].tokens = true;
  sent_[n_plans_ % 2].feedback_idx = i;
  uint8_t* const buffer = feedback_.buffer.data() + i * tokens_bytes();
  stream_->WaitFor(feedback_.emptied[i]);
  CopyOnDevice(stream_->get(), buffer, last_tokens, tokens_bytes());
  feedback_.filled[i].Record(*stream_);
  feedback_.stream.WaitFor(feedback_.filled[i]);
  RETURN_IF_ERROR(
      links_->feedback->Broadcast(feedback_.stream.get(), /*root=*/0, buffer, tokens_bytes()));
  feedback_.emptied[i].Record(feedback_.stream);
  return absl::OkStatus();
}

bool CudaPipeline::HasSent(int64_t plan_idx) const {
  const Sent& sent = sent_[plan_idx % 2];
  return (!sent.residual || after_.emptied[sent.edge_idx].IsDone()) &&
         (!sent.tokens || feedback_.emptied[sent.feedback_idx].IsDone());
}

}  // namespace bora
