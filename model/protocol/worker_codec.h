// The worker protocol between plain data (model/protocol/worker_protocol.h, model/step/step.h) and
// its messages on the wire. The only place that knows both.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "bora/worker/v1alpha1/worker_service.pb.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

void ToProto(const WorkerMessage& message, worker::v1alpha1::WorkerMessage* proto);
void ToProto(const CoordinatorMessage& message, worker::v1alpha1::CoordinatorMessage* proto);
void ToProto(const StepPlan& plan, worker::v1alpha1::CoordinatorMessage* proto);

// What a coordinator's group can have a worker say at most.
struct WorkerMessageLimits {
  int32_t max_sampled = kMaxNumSeqs;                   // GroupLimits::max_num_seqs
  int32_t max_prompt_logprobs = kMaxNumBatchedTokens;  // GroupLimits::max_num_batched_tokens
  int32_t n_stages = 1024;                             // of the pipeline

  static WorkerMessageLimits Of(const GroupLimits& limits, int32_t n_stages) {
    return {limits.max_num_seqs, limits.max_num_batched_tokens, n_stages};
  }
};

// Bytes on the wire of the largest message of a worker: the result of a step in which every token
// has all alternatives.
int64_t MaxWorkerMessageBytes(const WorkerMessageLimits& limits);

// Both: INVALID_ARGUMENT for a message without content, for lists whose lengths do not fit each
// other or are above the limits, and for values outside their field's range. Names and reasons are
// for people: they are cut and escaped (model/protocol/peer_text.h). Time and memory are linear in
// the message. Whether a plan or a result makes sense is ValidatePlan's and the scheduler's
// question.
absl::StatusOr<WorkerMessage> FromProto(const worker::v1alpha1::WorkerMessage& proto,
                                        const WorkerMessageLimits& limits = {});
absl::StatusOr<CoordinatorMessage> FromProto(const worker::v1alpha1::CoordinatorMessage& proto);

}  // namespace bora
