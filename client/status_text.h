// What `bora status` shows, as text. Pure.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "bora/inference/v1/model_service.pb.h"

namespace bora {

// One answer of the server.
struct StatusSample {
  inference::v1::ServerInfo info;
  inference::v1::ListModelsResponse models;
  absl::Duration at;  // of a steady clock
};

// Lines of at most 80 columns but for the names of hosts and devices, at the
// ends of theirs. With `before`, an earlier sample of the same server, also
// what happened between the two: rates, and percentiles of the time to the
// first token and between tokens.
std::string StatusText(const StatusSample& sample, const StatusSample* before);

// Whether `before` is of the same run of the server: its counters have not
// begun anew.
bool IsSameRun(const StatusSample& before, const StatusSample& sample);

// The value below which `part` of what was counted between the histograms lies,
// by the upper bound of its bucket in milliseconds; infinite in the last
// bucket, and negative where nothing was counted.
double PercentileMs(const inference::v1::LatencyHistogram& before,
                    const inference::v1::LatencyHistogram& after, double part);

}  // namespace bora
