// What is known about one call of a public service from its arrival to its end, for its line in the
// access log. Texts of prompts and completions never get here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/request_spec.h"

namespace bora {

// Of a call that generates, once its request is valid.
struct GenerationRecord {
  std::string tenant;
  Priority priority = Priority::kStandard;
  int32_t n_candidates = 1;
  uint64_t seed = 0;  // of the first candidate
  int64_t n_prompt_tokens = 0;
  int64_t n_cached_prompt_tokens = 0;
  int64_t n_output_tokens = 0;       // of all candidates
  absl::Duration first_token;        // since arrival; zero without a token
  std::vector<FinishKind> finishes;  // of the candidates that have ended
  RequestTiming timing;              // as the last of them said
};

// Owned by the call.
struct CallRecord {
  const char* method = "";
  std::string request_id;
  std::string peer;
  SteadyTime arrival;
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // the call's
  // How it ended.
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string reason;
  std::optional<GenerationRecord> generation;
};

// What the record of a call has of a valid request.
GenerationRecord RecordOf(const RequestSpec& spec);

// Counts what the engine has just made. REQUIRES: record->generation is set.
void RecordDelta(const OutputDelta& delta, CallRecord* record);

// The end of a call that was cancelled: DEADLINE_EXCEEDED if its deadline has passed, else
// CANCELLED.
void RecordCancelled(CallRecord* record);

}  // namespace bora
