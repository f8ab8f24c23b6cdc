// Counts of the calls that ended in a period of time, for the "throughput" line of ServerReport.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace bora {

struct CallStats {
  int64_t n_calls = 0;   // calls of all methods
  int64_t n_errors = 0;  // calls among them that ended with another code than OK
  // Median time from a call's arrival to its first generated token; zero if no call had a token.
  absl::Duration first_token_p50;
};

}  // namespace bora
