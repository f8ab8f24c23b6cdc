// What clients met in a period of time, as the report of the server sums it up.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace bora {

struct CallStats {
  int64_t n_calls = 0;
  int64_t n_errors = 0;            // calls that ended with another code than OK
  absl::Duration first_token_p50;  // median; zero without a first token
};

}  // namespace bora
