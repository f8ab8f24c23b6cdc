// The worker protocol between plain data (model/worker_protocol.h, model/step.h) and its messages
// on the wire. The only place that knows both.
#pragma once

#include "absl/status/statusor.h"
#include "bora/worker/v1alpha1/worker_service.pb.h"
#include "model/worker_protocol.h"

namespace bora {

void ToProto(const WorkerMessage& message, worker::v1alpha1::WorkerMessage* proto);
void ToProto(const CoordinatorMessage& message, worker::v1alpha1::CoordinatorMessage* proto);

// INVALID_ARGUMENT for a message without content, for lists whose lengths do not fit each other and
// for values outside their type's range; whether a plan makes sense is ValidatePlan's question.
absl::StatusOr<WorkerMessage> FromProto(const worker::v1alpha1::WorkerMessage& proto);
absl::StatusOr<CoordinatorMessage> FromProto(const worker::v1alpha1::CoordinatorMessage& proto);

}  // namespace bora
