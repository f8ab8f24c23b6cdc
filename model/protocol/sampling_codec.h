// Sampling parameters in the worker protocol, and back: field by field of kSamplingFields, which
// the message has under the same names.
#pragma once

#include "bora/worker/v1alpha1/worker_service.pb.h"
#include "model/step/sampling_params.h"

namespace bora {

// Fills `proto`, which is empty.
void WriteSampling(const SamplingParams& sampling, worker::v1alpha1::SamplingParams* proto);

// Takes every value as it is: ValidatePlan checks ranges.
SamplingParams ReadSampling(const worker::v1alpha1::SamplingParams& proto);

}  // namespace bora
