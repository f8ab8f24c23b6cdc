// A model's facts, and what an engine says about a request: deltas and errors.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/model_facts.h"
#include "coordinator/api/request_spec.h"

namespace bora {

inline ModelFacts TestModel() {
  ModelFacts model;
  model.name = "test";
  model.context_length = 4096;
  model.eos_token_ids = {2};
  model.dtype = "float32";
  return model;
}

// A delta with these tokens and this text.
inline OutputDelta MakeDelta(const std::vector<int32_t>& token_ids, std::string text) {
  OutputDelta delta;
  delta.text = std::move(text);
  for (const int32_t id : token_ids) {
    SampledToken token;
    token.token_id = id;
    token.rank = 1;
    token.logprob = -0.25f;
    delta.tokens.push_back(token);
  }
  return delta;
}

inline OutputDelta WithFinish(OutputDelta delta, FinishKind kind = FinishKind::kMaxTokens) {
  FinishInfo finish;
  finish.kind = kind;
  delta.finish = finish;
  return delta;
}

inline ApiError MakeError(absl::StatusCode code, const char* reason) {
  ApiError error;
  error.code = code;
  error.reason = reason;
  error.message = absl::StrCat("because of ", reason);
  error.metadata["why"] = reason;
  if (code == absl::StatusCode::kUnavailable) error.retry_delay = absl::Milliseconds(20);
  return error;
}

}  // namespace bora
