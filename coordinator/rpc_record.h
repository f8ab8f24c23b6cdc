// What is known about one call of a public service from its arrival to its end, for its line in the
// access log. Texts of prompts and completions never get here.
#pragma once

#include <grpcpp/server_context.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api_error.h"
#include "coordinator/priority.h"
#include "coordinator/request.h"

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

// Owned by the call's reactor.
struct RpcRecord {
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

// A record with everything that the call's context knows. The request id is the metadata
// x-request-id where that is a valid id, else a new one; a caller with a field for it overrides it.
RpcRecord MakeRpcRecord(const char* method, const grpc::CallbackServerContext& context);

// For calls that gRPC ended: DEADLINE_EXCEEDED if the deadline has passed, else CANCELLED.
void RecordCancelled(RpcRecord* record);

// LIMIT_EXCEEDED, unless the call's metadata are within kMaxMetadataBytes. gRPC lets larger ones
// pass, see SetLimits in public_server.cc.
std::optional<ApiError> CheckMetadata(const grpc::CallbackServerContext& context);

// RESOURCE_EXHAUSTED with LIMIT_EXCEEDED: a request has n_bytes, or at least so many unless
// `exact`, more than kMaxMessageBytes.
ApiError MessageTooLarge(int64_t n_bytes, bool exact);

// LIMIT_EXCEEDED: the answer is larger than clients accept.
ApiError AnswerTooLarge(int64_t n_bytes);

}  // namespace bora
