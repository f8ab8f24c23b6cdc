// Converts between the worker protocol's plain data (model/protocol/worker_protocol.h,
// model/step/step.h) and its protobuf messages. No other code knows both. Thread-safe.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "bora/worker/v1alpha1/worker_service.pb.h"
#include "model/protocol/worker_protocol.h"

namespace bora {

// Replaces the contents of `proto` by the message. Texts of errors are cut and escaped as in
// FromProto, since text that is not UTF-8 would make the whole message unreadable. The third
// overload takes a plan that is not in a CoordinatorMessage, so that it need not be copied.
void ToProto(const WorkerMessage& message, worker::v1alpha1::WorkerMessage* proto);
void ToProto(const CoordinatorMessage& message, worker::v1alpha1::CoordinatorMessage* proto);
void ToProto(const StepPlan& plan, worker::v1alpha1::CoordinatorMessage* proto);

// Upper limits of what a worker's message may hold, as they follow from its group. A plain value.
struct WorkerMessageLimits {
  int32_t max_sampled = kMaxNumSeqs;                   // GroupLimits::max_num_seqs
  int32_t max_prompt_logprobs = kMaxNumBatchedTokens;  // GroupLimits::max_num_batched_tokens
  int32_t n_stages = 1024;                             // stages of the pipeline

  // The limits for a group with these limits of plans and n_stages pipeline stages.
  static WorkerMessageLimits Of(const GroupLimits& limits, int32_t n_stages) {
    return {limits.max_num_seqs, limits.max_num_batched_tokens, n_stages};
  }
};

// Returns an upper bound in bytes for a serialised message of a worker: for the result of a step
// in which every token has kMaxLogprobs alternatives.
int64_t MaxWorkerMessageBytes(const WorkerMessageLimits& limits);

// Both functions convert a message that came from another process. INVALID_ARGUMENT if the message
// has no content, if the lengths of lists contradict each other or exceed `limits`, or if a value
// is outside its field's range. Names and reasons, which are for people, are cut and escaped
// (model/protocol/peer_text.h). Time and memory are linear in the message. Whether a plan or a
// result makes sense is not checked here: that is for ValidatePlan and the scheduler.
absl::StatusOr<WorkerMessage> FromProto(const worker::v1alpha1::WorkerMessage& proto,
                                        const WorkerMessageLimits& limits = {});
absl::StatusOr<CoordinatorMessage> FromProto(const worker::v1alpha1::CoordinatorMessage& proto);

}  // namespace bora
