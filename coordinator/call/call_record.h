// Facts about one call of a public service, gathered from its arrival to its end for its line in
// the access log. A record never contains text of a prompt or completion.
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

// The part of the record that only calls of Generate and GenerateStream have, from the time when
// their request is known to be valid.
struct GenerationRecord {
  std::string tenant;
  Priority priority = Priority::kStandard;
  int32_t n_candidates = 1;
  uint64_t seed = 0;  // of candidate 0
  int64_t n_prompt_tokens = 0;
  int64_t n_cached_prompt_tokens = 0;  // known once a candidate has ended
  int64_t n_output_tokens = 0;         // of all candidates
  absl::Duration first_token;          // from the call's arrival; zero without a token
  std::vector<FinishKind> finishes;    // of the candidates that have ended, in order of their ends
  RequestTiming timing;                // from the candidate that ended last
};

// Owned by the call.
struct CallRecord {
  const char* method = "";  // without the service's name; a string literal
  std::string request_id;
  std::string peer;  // the client's address in gRPC's form
  SteadyTime arrival;
  SteadyTime deadline = SteadyTime::InfiniteFuture();  // of the call
  absl::StatusCode code = absl::StatusCode::kOk;       // how the call ended
  std::string reason;                                  // of namespace reason; empty for kOk
  std::optional<GenerationRecord> generation;
};

// The record's part about a valid request, before any output.
GenerationRecord RecordOf(const RequestSpec& spec);

// Counts the tokens of a delta that the engine has just delivered, and notes the end of its
// candidate. REQUIRES: record->generation is set.
void RecordDelta(const OutputDelta& delta, CallRecord* record);

// Notes the end of a call that was cancelled: the code is DEADLINE_EXCEEDED if the call's deadline
// has passed, else CANCELLED. The reason is CANCELLED in both cases.
void RecordCancelled(CallRecord* record);

}  // namespace bora
