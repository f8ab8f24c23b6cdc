// Converts sampling parameters to messages of the worker protocol and back. Fields of
// kSamplingFields are copied by name: the message has fields of the same names. Thread-safe.
#pragma once

#include "bora/worker/v1alpha1/worker_service.pb.h"
#include "model/step/sampling_params.h"

namespace bora {

// Copies all parameters to `proto`. REQUIRES: `proto` is empty.
void WriteSampling(const SamplingParams& sampling, worker::v1alpha1::SamplingParams* proto);

// Copies all parameters from `proto` without checking them: ValidatePlan checks their ranges.
SamplingParams ReadSampling(const worker::v1alpha1::SamplingParams& proto);

}  // namespace bora
