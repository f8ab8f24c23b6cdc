// The text that `bora status` prints. Pure functions; any thread.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "base/clock.h"
#include "bora/inference/v1/model_service.pb.h"

namespace bora {

// The answers of the server to one round of calls. A plain value.
struct StatusSample {
  inference::v1::ServerInfo info;            // state, counters and workers
  inference::v1::ListModelsResponse models;  // served models
  SteadyTime at;                             // when `info` arrived, on a steady clock
};

// Returns the text of one view, with a newline at its end. Lines have at most 80 columns, except
// that names of hosts and devices, which stand at the ends of lines, may go beyond. If `before` is
// not null, also tells what happened between the two samples: rates, and percentiles of the time to
// the first token and of the time between tokens. REQUIRES: `before` is null or IsSameRun(*before,
// sample).
std::string StatusText(const StatusSample& sample, const StatusSample* before);

// Whether the earlier sample `before` comes from the same run of the server. If not, the server's
// counters have restarted and differences mean nothing.
bool IsSameRun(const StatusSample& before, const StatusSample& sample);

// Returns the `part`-quantile (0.5 is the median) of the latencies that were counted after `before`
// and up to `after`, in milliseconds. `part` is in (0, 1]. The result is rounded up to the upper
// bound of its histogram bucket: infinity for the last bucket. It is negative if nothing was
// counted in between. REQUIRES: both histograms are of the same run of the server.
double PercentileMs(const inference::v1::LatencyHistogram& before,
                    const inference::v1::LatencyHistogram& after, double part);

}  // namespace bora
