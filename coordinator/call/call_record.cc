#include "coordinator/call/call_record.h"

#include "coordinator/api/api_errors.h"

namespace bora {

GenerationRecord RecordOf(const RequestSpec& spec) {
  GenerationRecord record;
  record.tenant = spec.tenant;
  record.priority = spec.priority;
  record.n_candidates = spec.n_candidates;
  record.seed = spec.sampling.seed;
  record.n_prompt_tokens = static_cast<int64_t>(spec.prompt_tokens.size());
  return record;
}

void RecordDelta(const OutputDelta& delta, CallRecord* record) {
  GenerationRecord& generation = *record->generation;
  if (generation.n_output_tokens == 0 && !delta.tokens.empty()) {
    generation.first_token = SteadyNow() - record->arrival;
  }
  generation.n_output_tokens += static_cast<int64_t>(delta.tokens.size());
  if (!delta.finish.has_value()) return;
  generation.finishes.push_back(delta.finish->kind);
  generation.n_cached_prompt_tokens = delta.finish->n_cached_prompt_tokens;
  generation.timing = delta.finish->timing;
}

void RecordCancelled(CallRecord* record) {
  const bool expired = SteadyNow() >= record->deadline;
  const ErrorRow& row = RowOf(ErrorKind::kCancelled);
  record->code = expired ? absl::StatusCode::kDeadlineExceeded : row.code;
  record->reason = row.reason;
}

}  // namespace bora
