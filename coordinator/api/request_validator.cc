#include "coordinator/api/request_validator.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/violations.h"
#include "model/step/sampling_fields.h"
#include "model/text/detokenizer.h"

namespace bora {
namespace {

namespace v1 = inference::v1;
namespace pb = google::protobuf;

constexpr int64_t kMaxTimeLimitSeconds = int64_t{24} * 60 * 60;

// Counts the bytes that begin a code point. The text is valid UTF-8, since protobuf refuses any
// other string (see request_parsing.h).
int64_t CountCodePoints(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// Adds violations for ids outside of [0, vocab_size): one for each of the first kMaxPerList such
// ids, and if there are more, one for the list with their number.
void CheckTokenIds(absl::string_view field, absl::Span<const int32_t> ids, int32_t vocab_size,
                   Violations* violations) {
  int64_t n_unknown = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    if (++n_unknown > Violations::kMaxPerList) continue;
    violations->CheckRange(absl::StrCat(field, "[", i, "]"), int64_t{ids[i]}, 0, vocab_size - 1);
  }
  if (n_unknown > Violations::kMaxPerList) {
    violations->AddInvalid(std::string(field),
                           absl::StrCat("a list with ", n_unknown, " unknown ids"),
                           absl::StrCat("of ids in [0, ", vocab_size - 1, "]"));
  }
}

absl::Span<const int32_t> Ids(const v1::TokenIds& token_ids) {
  return absl::MakeConstSpan(token_ids.ids().data(), token_ids.ids().size());
}

// Whether the beginning-of-sequence token is put in front of the prompt. By default a text gets it
// and token ids do not, since their sender has tokenized them already.
bool AddsBos(const v1::Prompt& prompt, const Tokenizer& tokenizer) {
  const bool wanted = prompt.has_add_bos_token() ? prompt.add_bos_token() : prompt.has_text();
  return wanted && tokenizer.bos_id() >= 0;
}

void CheckText(const std::string& field, const std::string& text, Violations* violations) {
  const int64_t n_bytes = static_cast<int64_t>(text.size());
  if (n_bytes == 0) {
    violations->AddInvalid(field, "empty", absl::StrCat("1 to ", kMaxPromptBytes, " bytes"));
  } else if (n_bytes > kMaxPromptBytes) {
    violations->AddLimit(field, absl::StrCat(n_bytes, " bytes"),
                         absl::StrCat("1 to ", kMaxPromptBytes, " bytes"));
  }
}

void CheckPrompt(const v1::Prompt& prompt, const ModelFacts& model, const Tokenizer& tokenizer,
                 Violations* violations) {
  switch (prompt.source_case()) {
    case v1::Prompt::kText:
      CheckText("prompt.text", prompt.text(), violations);
      break;
    case v1::Prompt::kTokenIds:
      if (prompt.token_ids().ids().empty()) {
        violations->AddInvalid("prompt.token_ids.ids", "empty", "at least 1 id");
      }
      CheckTokenIds("prompt.token_ids.ids", Ids(prompt.token_ids()), tokenizer.vocab_size(),
                    violations);
      break;
    case v1::Prompt::SOURCE_NOT_SET:
      violations->AddInvalid("prompt", "absent", "set: either text or token_ids");
      break;
  }
  if (prompt.add_bos_token() && tokenizer.bos_id() < 0) {
    violations->AddInvalid("prompt.add_bos_token", "true",
                           "false: the model has no beginning-of-sequence token");
  }
  violations->CheckRange("prompt.truncate_prompt_tokens", int64_t{prompt.truncate_prompt_tokens()},
                         0, model.context_length);
}

std::string ValueText(float value) { return FloatText(value); }
std::string ValueText(int32_t value) { return absl::StrCat(value); }

void Get(const v1::SamplingOptions& sampling, const pb::FieldDescriptor* field, float* value) {
  *value = sampling.GetReflection()->GetFloat(sampling, field);
}
void Get(const v1::SamplingOptions& sampling, const pb::FieldDescriptor* field, int32_t* value) {
  *value = sampling.GetReflection()->GetInt32(sampling, field);
}

// The value that the request gives to a sampling parameter; nullopt if the request does not set it.
// SamplingOptions has a field of the same name for each parameter of ForEachSamplingField, so that
// a new parameter needs no code here.
template <typename T>
std::optional<T> ValueOf(const v1::SamplingOptions& sampling, const SamplingField<T>& field) {
  const pb::FieldDescriptor* descriptor = sampling.GetDescriptor()->FindFieldByName(field.name);
  CHECK(descriptor != nullptr) << field.name;
  if (!sampling.GetReflection()->HasField(sampling, descriptor)) return std::nullopt;
  T value = 0;
  Get(sampling, descriptor, &value);
  return value;
}

void CheckSampling(const v1::SamplingOptions& sampling, Violations* violations) {
  ForEachSamplingField([&](const auto& field) {
    const auto value = ValueOf(sampling, field);
    if (!value.has_value() || field.Contains(*value)) return;
    violations->AddInvalid(absl::StrCat("sampling.", field.name), ValueText(*value),
                           absl::StrCat("in ", field.RangeText()));
  });
}

void CheckStopSequences(const v1::StopOptions& stopping, Violations* violations) {
  if (stopping.stop_size() > kMaxStopSequences) {
    violations->AddLimit("stopping.stop", absl::StrCat(stopping.stop_size(), " sequences"),
                         absl::StrCat("at most ", kMaxStopSequences));
  }
  int n_bad = 0;
  for (int i = 0; i < stopping.stop_size() && n_bad < Violations::kMaxPerList; ++i) {
    const int64_t n_code_points = CountCodePoints(stopping.stop(i));
    if (n_code_points > 0 && n_code_points <= kMaxStopSequenceCodePoints) continue;
    ++n_bad;
    const std::string field = absl::StrCat("stopping.stop[", i, "]");
    const std::string limit = absl::StrCat("1 to ", kMaxStopSequenceCodePoints, " code points");
    if (n_code_points == 0) {
      violations->AddInvalid(field, "empty", limit);
    } else {
      violations->AddLimit(field, absl::StrCat(n_code_points, " code points"), limit);
    }
  }
}

void CheckStopping(const v1::StopOptions& stopping, int32_t vocab_size, Violations* violations) {
  if (stopping.has_max_tokens() && stopping.max_tokens() < 1) {
    violations->AddInvalid("stopping.max_tokens", absl::StrCat(stopping.max_tokens()),
                           "at least 1");
  }
  if (stopping.min_tokens() < 0) {
    violations->AddInvalid("stopping.min_tokens", absl::StrCat(stopping.min_tokens()),
                           "in [0, max_tokens]");
  } else if (stopping.has_max_tokens() && stopping.min_tokens() > stopping.max_tokens()) {
    // Without max_tokens ChooseMaxTokens checks min_tokens against the default.
    violations->CheckRange("stopping.min_tokens", int64_t{stopping.min_tokens()}, 0,
                           std::max(stopping.max_tokens(), 0));
  }
  CheckStopSequences(stopping, violations);
  const absl::Span<const int32_t> ids(stopping.stop_token_ids().data(),
                                      stopping.stop_token_ids().size());
  CheckTokenIds("stopping.stop_token_ids", ids, vocab_size, violations);
  if (stopping.has_time_limit()) {
    const google::protobuf::Duration& limit = stopping.time_limit();
    // A Duration from the wire may have any numbers: nanos of another sign, or beyond a second.
    const bool in_range = limit.seconds() >= 0 && limit.seconds() <= kMaxTimeLimitSeconds &&
                          limit.nanos() >= 0 && limit.nanos() < 1'000'000'000 &&
                          ToDuration(limit) > absl::ZeroDuration() &&
                          ToDuration(limit) <= absl::Seconds(kMaxTimeLimitSeconds);
    if (!in_range) {
      violations->AddInvalid("stopping.time_limit",
                             absl::StrCat(limit.seconds(), " s ", limit.nanos(), " ns"),
                             absl::StrCat("in (0, ", kMaxTimeLimitSeconds, "] s"));
    }
  }
}

void CheckLogprobs(absl::string_view field, int32_t n, Violations* violations) {
  const std::string limit = absl::StrCat("in [0, ", kMaxLogprobs, "]");
  if (n < 0) violations->AddInvalid(std::string(field), absl::StrCat(n), limit);
  if (n > kMaxLogprobs) violations->AddLimit(std::string(field), absl::StrCat(n), limit);
}

void CheckOutput(const v1::OutputOptions& output, Violations* violations) {
  if (output.has_logprobs()) CheckLogprobs("output.logprobs", output.logprobs(), violations);
  if (output.has_prompt_logprobs()) {
    CheckLogprobs("output.prompt_logprobs", output.prompt_logprobs(), violations);
  }
}

// The ids that end generation, the model's own included unless the request ignores them; ascending
// and unique.
std::vector<int32_t> StopTokenIds(const v1::StopOptions& stopping, const ModelFacts& model) {
  std::vector<int32_t> ids(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  if (!stopping.ignore_eos()) {
    ids.insert(ids.end(), model.eos_token_ids.begin(), model.eos_token_ids.end());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

SamplingParams MakeSampling(const v1::SamplingOptions& sampling, const SamplingDefaults& defaults,
                            const v1::OutputOptions& output, int32_t min_tokens,
                            std::vector<int32_t> stop_token_ids) {
  SamplingParams params = DefaultSampling(defaults);
  ForEachSamplingField([&](const auto& field) {
    if (const auto value = ValueOf(sampling, field)) params.*field.member = *value;
  });
  // A random seed has 52 bits: readers of JSON keep integers up to 2^53 exactly, and the seeds of
  // further candidates are larger than this one.
  params.seed = sampling.has_seed() ? static_cast<uint64_t>(sampling.seed()) : RandomSeed() >> 12;
  if (output.has_logprobs()) params.n_logprobs = output.logprobs();
  if (output.has_prompt_logprobs()) params.n_prompt_logprobs = output.prompt_logprobs();
  params.min_tokens = min_tokens;
  params.stop_token_ids = std::move(stop_token_ids);
  return params;
}

void CheckBatch(const std::string& field, int n_inputs, Violations* violations) {
  if (n_inputs == 0) {
    violations->AddInvalid(field, "empty", absl::StrCat("1 to ", kMaxBatchInputs, " inputs"));
  } else if (n_inputs > kMaxBatchInputs) {
    violations->AddLimit(field, absl::StrCat(n_inputs, " inputs"),
                         absl::StrCat("1 to ", kMaxBatchInputs, " inputs"));
  }
}

// Whether `name` has 1 to max_bytes characters of [A-Za-z0-9._:-].
bool IsName(absl::string_view name, size_t max_bytes) {
  return !name.empty() && name.size() <= max_bytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  absl::string_view("._:-").find(c) != absl::string_view::npos;
         });
}

// The text to echo for a prompt of `ids`; `kept` is the part of the ids that truncation has left,
// and the completion continues `kept`. If both end inside the same character, the echo ends before
// that character, because the completion's text begins with it.
std::string EchoText(const Tokenizer& tokenizer, absl::Span<const int32_t> ids,
                     absl::Span<const int32_t> kept) {
  Detokenizer all(&tokenizer);
  std::string text;
  for (const int32_t id : ids) all.AppendTo(id, &text);
  Detokenizer primed(&tokenizer);
  primed.Prime(kept);
  if (all.incomplete() != primed.incomplete()) text += all.Finish();
  return text;
}

// REQUIRES: `priority` is a value of the enum. UNSPECIFIED is standard.
Priority ToPriority(v1::Priority priority) {
  if (priority == v1::PRIORITY_INTERACTIVE) return Priority::kInteractive;
  if (priority == v1::PRIORITY_BATCH) return Priority::kBatch;
  return Priority::kStandard;
}

}  // namespace

SamplingParams DefaultSampling(const SamplingDefaults& defaults) {
  SamplingParams params;
  params.temperature = defaults.temperature.value_or(params.temperature);
  params.top_p = defaults.top_p.value_or(params.top_p);
  params.top_k = defaults.top_k.value_or(params.top_k);
  params.min_p = defaults.min_p.value_or(params.min_p);
  params.repetition_penalty = defaults.repetition_penalty.value_or(params.repetition_penalty);
  return params;
}

bool IsValidRequestId(absl::string_view request_id) {
  return IsName(request_id, kMaxRequestIdBytes);
}

uint64_t RandomSeed() {
  // random_device gives 32 bits at a time.
  static_assert(sizeof(std::random_device::result_type) == 4);
  thread_local std::random_device device;
  const uint64_t high = device();
  return (high << 32) | device();
}

RequestValidator::RequestValidator(const ModelFacts& model, const Tokenizer& tokenizer)
    : model_(model), tokenizer_(tokenizer) {
  CHECK_GT(model.context_length, 1);
  max_token_bytes_ = 3;  // U+FFFD, which stands for a byte that is not UTF-8 by itself
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    max_token_bytes_ =
        std::max(max_token_bytes_, static_cast<int64_t>(tokenizer.TokenBytes(id).size()));
  }
}

std::optional<ApiError> RequestValidator::CheckModel(absl::string_view model) const {
  absl::string_view name = model;
  absl::ConsumePrefix(&name, "models/");
  if (name == model_.name) return std::nullopt;
  return ModelNotFound(model, resource_name());
}

std::variant<ValidatedRequest, ApiError> RequestValidator::Validate(
    const v1::GenerateStreamRequest& request, const CallFacts& call) const {
  return ValidateRequest(request, call, AnswerKind::kStream);
}

std::variant<ValidatedRequest, ApiError> RequestValidator::Validate(
    const v1::GenerateRequest& request, const CallFacts& call) const {
  return ValidateRequest(request, call, AnswerKind::kWhole);
}

template <typename Request>
std::variant<ValidatedRequest, ApiError> RequestValidator::ValidateRequest(const Request& request,
                                                                           const CallFacts& call,
                                                                           AnswerKind kind) const {
  if (!request.model().empty()) {
    if (std::optional<ApiError> error = CheckModel(request.model())) return *std::move(error);
  }
  Violations violations;
  const v1::StopOptions& stopping = request.stopping();
  CheckPrompt(request.prompt(), model_, tokenizer_, &violations);
  CheckSampling(request.sampling(), &violations);
  CheckStopping(stopping, tokenizer_.vocab_size(), &violations);
  CheckOutput(request.output(), &violations);
  if (request.prefix_cache().salt().size() > kMaxCacheSaltBytes) {
    violations.AddLimit("prefix_cache.salt",
                        absl::StrCat(request.prefix_cache().salt().size(), " bytes"),
                        absl::StrCat("at most ", kMaxCacheSaltBytes));
  }
  if (!request.request_id().empty() && !IsValidRequestId(request.request_id())) {
    violations.AddInvalid(
        "request_id", absl::StrCat("\"", Excerpt(request.request_id()), "\""),
        absl::StrCat("1 to ", kMaxRequestIdBytes, " characters of [A-Za-z0-9._:-]"));
  }
  if (!request.tenant().empty() && !IsName(request.tenant(), kMaxTenantBytes)) {
    violations.AddInvalid("tenant", absl::StrCat("\"", Excerpt(request.tenant()), "\""),
                          absl::StrCat("1 to ", kMaxTenantBytes, " characters of [A-Za-z0-9._:-]"));
  }
  if (request.has_n()) violations.CheckRange("n", int64_t{request.n()}, 1, kMaxCandidates);
  if (!v1::Priority_IsValid(request.priority())) {
    violations.AddInvalid("priority", absl::StrCat(static_cast<int>(request.priority())),
                          "a value of Priority");
  }
  std::vector<int32_t> stop_token_ids = StopTokenIds(stopping, model_);
  if (stop_token_ids.size() > kMaxStopTokenIds) {
    violations.AddLimit("stopping.stop_token_ids",
                        absl::StrCat(stop_token_ids.size(), " ids with the model's own"),
                        absl::StrCat("at most ", kMaxStopTokenIds));
  }
  if (!violations.empty()) return violations.TakeError();

  ValidatedRequest valid;
  RequestSpec& spec = valid.spec;
  spec.request_id = call.request_id;
  spec.arrival = call.arrival;
  spec.deadline = call.deadline;
  if (stopping.has_time_limit()) spec.time_limit = call.arrival + ToDuration(stopping.time_limit());
  spec.stop.assign(stopping.stop().begin(), stopping.stop().end());
  spec.prefix_cache = !request.prefix_cache().bypass();
  spec.cache_salt = request.prefix_cache().salt();
  spec.priority = ToPriority(request.priority());
  spec.tenant = request.tenant();
  if (request.has_n()) spec.n_candidates = request.n();
  spec.include_stop_in_output = stopping.include_stop_str_in_output();
  spec.sampling = MakeSampling(request.sampling(), model_.sampling_defaults, request.output(),
                               stopping.min_tokens(), std::move(stop_token_ids));
  const v1::Prompt& prompt = request.prompt();
  if (std::optional<ApiError> error = TokenizePrompt(prompt, &spec)) return *std::move(error);
  if (std::optional<ApiError> error = ChooseMaxTokens(stopping, &spec)) return *std::move(error);

  ResponseOptions& options = valid.options;
  options.token_ids = request.output().token_ids();
  options.logprobs = request.output().has_logprobs();
  options.prompt_logprobs = request.output().has_prompt_logprobs();
  options.timing = request.output().timing();
  if (request.output().echo()) {
    options.echo_text = std::make_shared<const std::string>(
        prompt.has_text() ? prompt.text()
                          : EchoText(tokenizer_, Ids(prompt.token_ids()), spec.prompt_tokens));
  }
  if (kind == AnswerKind::kWhole) {
    if (std::optional<ApiError> error = CheckAnswerBytes(valid)) return *std::move(error);
  }
  return valid;
}

std::optional<ApiError> RequestValidator::TokenizePrompt(const v1::Prompt& prompt,
                                                         RequestSpec* spec) const {
  const int64_t n_kept = prompt.truncate_prompt_tokens();
  const int64_t n_bos = AddsBos(prompt, tokenizer_) ? 1 : 0;
  // A prompt whose bytes alone prove that it has too many tokens is refused without tokenizing it,
  // unless it is to be truncated.
  const int64_t n_tokens_min =
      n_bos + (prompt.has_text() ? tokenizer_.MinTokens(static_cast<int64_t>(prompt.text().size()))
                                 : prompt.token_ids().ids_size());
  if (n_kept == 0 && n_tokens_min >= model_.context_length) {
    return ContextLengthExceeded(n_tokens_min, /*exact=*/!prompt.has_text(), std::nullopt,
                                 model_.context_length);
  }
  std::vector<int32_t> encoded;
  if (prompt.has_text()) encoded = tokenizer_.Encode(prompt.text());
  absl::Span<const int32_t> ids = prompt.has_text() ? encoded : Ids(prompt.token_ids());
  // Truncation keeps the last tokens. The beginning-of-sequence token is put in front of them and
  // counts as one of n_kept.
  if (n_kept > 0 && static_cast<int64_t>(ids.size()) > n_kept - n_bos) {
    ids.remove_prefix(ids.size() - (n_kept - n_bos));
  }
  std::vector<int32_t> kept;
  kept.reserve(ids.size() + n_bos);
  if (n_bos > 0) kept.push_back(tokenizer_.bos_id());
  kept.insert(kept.end(), ids.begin(), ids.end());
  spec->prompt_tokens = std::move(kept);
  if (spec->prompt_tokens.empty()) {
    Violations violations;
    violations.AddInvalid("prompt.text", "a text without tokens",
                          "at least 1 token; set add_bos_token or send other text");
    return violations.TakeError();
  }
  return std::nullopt;
}

std::optional<ApiError> RequestValidator::ChooseMaxTokens(const v1::StopOptions& stopping,
                                                          RequestSpec* spec) const {
  const int64_t n_prompt_tokens = static_cast<int64_t>(spec->prompt_tokens.size());
  const int64_t n_left = model_.context_length - n_prompt_tokens;
  // A request without max_tokens needs room for one token only: the default shrinks to what the
  // context leaves.
  const int64_t n_wanted = stopping.has_max_tokens() ? stopping.max_tokens() : 1;
  if (n_wanted > n_left) {
    return ContextLengthExceeded(
        n_prompt_tokens, /*exact=*/true,
        stopping.has_max_tokens() ? std::make_optional(n_wanted) : std::nullopt,
        model_.context_length);
  }
  if (stopping.has_max_tokens()) {
    spec->max_tokens = stopping.max_tokens();
    return std::nullopt;
  }
  const int32_t n_default = model_.sampling_defaults.max_tokens.value_or(kDefaultMaxTokens);
  spec->context_limited = n_left < n_default;
  spec->max_tokens = static_cast<int32_t>(std::min<int64_t>(n_left, n_default));
  Violations violations;
  violations.CheckRange("stopping.min_tokens", int64_t{stopping.min_tokens()}, 0, spec->max_tokens);
  if (violations.empty()) return std::nullopt;
  return violations.TakeError();
}

int64_t RequestValidator::MaxLogprobBytes(int32_t n_top) const {
  // In protobuf's encoding a tag has one byte, a token id or rank at most 5, a length at most 3 and
  // a float 4. An alternative is: its own tag and length (4), the id (6), token and token_bytes (a
  // tag, a length and at most max_token_bytes_ each), the log-probability (5).
  const int64_t alternative_bytes = 4 + 6 + 2 * (4 + max_token_bytes_) + 5;
  return alternative_bytes + 6 + n_top * alternative_bytes;
}

std::optional<ApiError> RequestValidator::CheckAnswerBytes(const ValidatedRequest& request) const {
  const RequestSpec& spec = request.spec;
  // Request id, model name, finish with its stop sequence, usage and timing.
  constexpr int64_t kOtherBytes = 4096;
  const auto& echo = request.options.echo_text;
  int64_t n_bytes = kOtherBytes + (echo == nullptr ? 0 : static_cast<int64_t>(echo->size())) +
                    spec.max_tokens * max_token_bytes_;
  if (request.options.token_ids) n_bytes += int64_t{spec.max_tokens} * 5;
  if (request.options.logprobs)
    n_bytes += spec.max_tokens * MaxLogprobBytes(spec.sampling.n_logprobs);
  n_bytes *= spec.n_candidates;
  if (request.options.prompt_logprobs) {
    n_bytes += static_cast<int64_t>(spec.prompt_tokens.size()) *
               MaxLogprobBytes(spec.sampling.n_prompt_logprobs);
  }
  if (n_bytes <= kMaxMessageBytes) return std::nullopt;
  Violations violations;
  violations.AddLimit("output", absl::StrCat("an answer of up to ", n_bytes, " bytes"),
                      absl::StrCat("at most ", kMaxMessageBytes, " bytes; use GenerateStream"));
  return violations.TakeError();
}

std::optional<ApiError> RequestValidator::Check(const v1::TokenizeRequest& request) const {
  if (!request.model().empty()) {
    if (std::optional<ApiError> error = CheckModel(request.model())) return error;
  }
  Violations violations;
  CheckBatch("texts", request.texts_size(), &violations);
  int n_bad = 0;
  for (int i = 0; i < request.texts_size() && n_bad < Violations::kMaxPerList; ++i) {
    if (request.texts(i).size() <= kMaxPromptBytes) continue;
    ++n_bad;
    CheckText(absl::StrCat("texts[", i, "]"), request.texts(i), &violations);
  }
  if (request.add_bos_token() && tokenizer_.bos_id() < 0) {
    violations.AddInvalid("add_bos_token", "true",
                          "false: the model has no beginning-of-sequence token");
  }
  if (violations.empty()) return std::nullopt;
  return violations.TakeError();
}

std::optional<ApiError> RequestValidator::Check(const v1::DetokenizeRequest& request) const {
  if (!request.model().empty()) {
    if (std::optional<ApiError> error = CheckModel(request.model())) return error;
  }
  Violations violations;
  CheckBatch("inputs", request.inputs_size(), &violations);
  const int n_checked = std::min(request.inputs_size(), kMaxBatchInputs);
  // Stops after the first input with violations, so that the error stays small.
  for (int i = 0; i < n_checked && violations.empty(); ++i) {
    const std::string field = absl::StrCat("inputs[", i, "].ids");
    if (request.inputs(i).ids_size() > model_.context_length) {
      violations.AddLimit(field, absl::StrCat(request.inputs(i).ids_size(), " ids"),
                          absl::StrCat("at most ", model_.context_length));
    }
    CheckTokenIds(field, Ids(request.inputs(i)), tokenizer_.vocab_size(), &violations);
  }
  if (violations.empty()) return std::nullopt;
  return violations.TakeError();
}

}  // namespace bora
