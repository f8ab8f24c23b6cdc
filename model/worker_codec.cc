#include "model/worker_codec.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/config.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;

constexpr int32_t kUseLastSampled = 1;
constexpr int32_t kSample = 2;
constexpr int32_t kPromptLogprobs = 4;
constexpr int32_t kAllRowFlags = kUseLastSampled | kSample | kPromptLogprobs;

int32_t StatusCode(const absl::Status& status) { return static_cast<int32_t>(status.code()); }

absl::Status ToStatus(int32_t code, const std::string& message) {
  // Codes beyond the known ones come from nobody we know.
  if (code < 0 || code > 16) return absl::UnknownError(message);
  return absl::Status(static_cast<absl::StatusCode>(code), message);
}

void Write(const RankEndpoint& endpoint, pb::RankEndpoint* proto) {
  proto->set_host_id(endpoint.host_id);
  proto->set_tcp_address(endpoint.tcp_address);
  proto->set_unix_name(endpoint.unix_name);
}

RankEndpoint Read(const pb::RankEndpoint& proto) {
  return {proto.host_id(), proto.tcp_address(), proto.unix_name()};
}

void Write(const LoadModel& load, pb::LoadModel* proto) {
  proto->set_model_path(load.model_path);
  proto->set_dummy_weights(load.dummy_weights);
  proto->set_dummy_seed(load.dummy_seed);
  proto->set_dtype(load.dtype);
  proto->set_quantization(load.quantization);
  proto->set_tensor_parallel_size(load.tensor_parallel_size);
  for (const int32_t n_layers : load.layers_per_stage) proto->add_layers_per_stage(n_layers);
  proto->set_stage(load.stage);
  proto->set_tensor_rank(load.tensor_rank);
  proto->set_max_model_len(load.max_model_len);
  proto->set_max_num_seqs(load.max_num_seqs);
  proto->set_max_num_batched_tokens(load.max_num_batched_tokens);
}

LoadModel Read(const pb::LoadModel& proto) {
  LoadModel load;
  load.model_path = proto.model_path();
  load.dummy_weights = proto.dummy_weights();
  load.dummy_seed = proto.dummy_seed();
  load.dtype = proto.dtype();
  load.quantization = proto.quantization();
  load.tensor_parallel_size = proto.tensor_parallel_size();
  load.layers_per_stage.assign(proto.layers_per_stage().begin(), proto.layers_per_stage().end());
  load.stage = proto.stage();
  load.tensor_rank = proto.tensor_rank();
  load.max_model_len = proto.max_model_len();
  load.max_num_seqs = proto.max_num_seqs();
  load.max_num_batched_tokens = proto.max_num_batched_tokens();
  return load;
}

void Write(const LoadedModel& loaded, pb::LoadedModel* proto) {
  Write(loaded.load, proto->mutable_load());
  proto->set_fingerprint(loaded.fingerprint);
  proto->set_weight_bytes(loaded.weight_bytes);
  proto->set_kv_block_bytes(loaded.kv_block_bytes);
  proto->set_max_blocks(loaded.max_blocks);
  proto->set_kv_memory_is_reserved(loaded.kv_memory_is_reserved);
}

LoadedModel Read(const pb::LoadedModel& proto) {
  return {Read(proto.load()),     proto.fingerprint(), proto.weight_bytes(),
          proto.kv_block_bytes(), proto.max_blocks(),  proto.kv_memory_is_reserved()};
}

void Write(const GroupLimits& limits, pb::GroupLimits* proto) {
  proto->set_max_num_seqs(limits.max_num_seqs);
  proto->set_max_num_batched_tokens(limits.max_num_batched_tokens);
  proto->set_max_model_len(limits.max_model_len);
  proto->set_block_size(limits.block_size);
  proto->set_n_blocks(limits.n_blocks);
  proto->set_vocab_size(limits.vocab_size);
}

GroupLimits Read(const pb::GroupLimits& proto) {
  GroupLimits limits;
  limits.max_num_seqs = proto.max_num_seqs();
  limits.max_num_batched_tokens = proto.max_num_batched_tokens();
  limits.max_model_len = proto.max_model_len();
  limits.block_size = proto.block_size();
  limits.n_blocks = proto.n_blocks();
  limits.vocab_size = proto.vocab_size();
  return limits;
}

void Write(const SamplingParams& sampling, pb::SamplingParams* proto) {
  proto->set_temperature(sampling.temperature);
  proto->set_top_p(sampling.top_p);
  proto->set_top_k(sampling.top_k);
  proto->set_min_p(sampling.min_p);
  proto->set_seed(sampling.seed);
  proto->set_n_logprobs(sampling.n_logprobs);
  proto->set_n_prompt_logprobs(sampling.n_prompt_logprobs);
  proto->set_min_tokens(sampling.min_tokens);
  for (const int32_t token_id : sampling.stop_token_ids) proto->add_stop_token_ids(token_id);
  proto->set_repetition_penalty(sampling.repetition_penalty);
  proto->set_frequency_penalty(sampling.frequency_penalty);
  proto->set_presence_penalty(sampling.presence_penalty);
}

SamplingParams Read(const pb::SamplingParams& proto) {
  SamplingParams sampling;
  sampling.temperature = proto.temperature();
  sampling.top_p = proto.top_p();
  sampling.top_k = proto.top_k();
  sampling.min_p = proto.min_p();
  sampling.seed = proto.seed();
  sampling.n_logprobs = proto.n_logprobs();
  sampling.n_prompt_logprobs = proto.n_prompt_logprobs();
  sampling.min_tokens = proto.min_tokens();
  sampling.stop_token_ids.assign(proto.stop_token_ids().begin(), proto.stop_token_ids().end());
  sampling.repetition_penalty = proto.repetition_penalty();
  sampling.frequency_penalty = proto.frequency_penalty();
  sampling.presence_penalty = proto.presence_penalty();
  return sampling;
}

void Write(const StepPlan& plan, pb::StepPlan* proto) {
  proto->set_epoch(plan.epoch);
  proto->set_step_id(plan.step_id);
  for (const int32_t slot : plan.closed) proto->add_closed(slot);
  for (const SlotOpen& open : plan.opened) {
    pb::SlotOpen* item = proto->add_opened();
    item->set_slot(open.slot);
    item->set_n_prompt_tokens(open.n_prompt_tokens);
    item->set_n_generated_tokens(open.n_generated_tokens);
    item->set_n_cached_tokens(open.n_cached_tokens);
    Write(open.sampling, item->mutable_sampling());
    item->mutable_known_tokens()->Add(open.known_tokens.begin(), open.known_tokens.end());
  }
  for (const BlockGrant& grant : plan.grants) {
    proto->add_grants(grant.slot);
    proto->add_grants(grant.block_idx);
    proto->add_grants(grant.block_id);
  }
  for (const StepRow& row : plan.rows) {
    proto->add_rows(row.slot);
    proto->add_rows(row.position);
    proto->add_rows(row.n_tokens);
    proto->add_rows((row.use_last_sampled ? kUseLastSampled : 0) | (row.sample ? kSample : 0) |
                    (row.prompt_logprobs ? kPromptLogprobs : 0));
  }
  for (const int32_t token_id : plan.tokens) proto->add_tokens(token_id);
  for (const int32_t token_id : plan.next_tokens) proto->add_next_tokens_plus_1(token_id + 1);
}

absl::StatusOr<StepPlan> Read(const pb::StepPlan& proto) {
  if (proto.grants_size() % 3 != 0 || proto.rows_size() % 4 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("step plan: ", proto.grants_size(),
                                                   " integers of grants and ", proto.rows_size(),
                                                   " of rows, expected multiples of 3 and 4"));
  }
  StepPlan plan;
  plan.epoch = proto.epoch();
  plan.step_id = proto.step_id();
  plan.closed.assign(proto.closed().begin(), proto.closed().end());
  plan.opened.reserve(proto.opened_size());
  for (const pb::SlotOpen& item : proto.opened()) {
    plan.opened.push_back({item.slot(),
                           item.n_prompt_tokens(),
                           item.n_generated_tokens(),
                           item.n_cached_tokens(),
                           Read(item.sampling()),
                           {item.known_tokens().begin(), item.known_tokens().end()}});
  }
  plan.grants.reserve(proto.grants_size() / 3);
  for (int i = 0; i < proto.grants_size(); i += 3) {
    plan.grants.push_back({proto.grants(i), proto.grants(i + 1), proto.grants(i + 2)});
  }
  plan.rows.reserve(proto.rows_size() / 4);
  int64_t token_begin = 0;
  for (int i = 0; i < proto.rows_size(); i += 4) {
    const int32_t flags = proto.rows(i + 3);
    if ((flags & ~kAllRowFlags) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("step plan: row ", i / 4, " has flags ", flags));
    }
    StepRow row;
    row.slot = proto.rows(i);
    row.position = proto.rows(i + 1);
    row.n_tokens = proto.rows(i + 2);
    row.token_begin = static_cast<int32_t>(token_begin);
    row.use_last_sampled = (flags & kUseLastSampled) != 0;
    row.sample = (flags & kSample) != 0;
    row.prompt_logprobs = (flags & kPromptLogprobs) != 0;
    if (!row.use_last_sampled) token_begin += row.n_tokens;
    if (row.n_tokens <= 0 || token_begin > proto.tokens_size()) {
      return absl::InvalidArgumentError(absl::StrCat("step plan: row ", i / 4, " of ", row.n_tokens,
                                                     " tokens, the plan has ",
                                                     proto.tokens_size()));
    }
    plan.rows.push_back(row);
  }
  plan.tokens.assign(proto.tokens().begin(), proto.tokens().end());
  plan.next_tokens.reserve(proto.next_tokens_plus_1_size());
  for (const int32_t token_id_plus_1 : proto.next_tokens_plus_1()) {
    if (token_id_plus_1 < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("step plan: next token ", int64_t{token_id_plus_1} - 1));
    }
    plan.next_tokens.push_back(token_id_plus_1 - 1);
  }
  return plan;
}

void Write(const std::vector<SampledToken>& tokens, pb::SampledTokens* proto) {
  for (const SampledToken& token : tokens) {
    proto->add_slot(token.slot);
    proto->add_position(token.position);
    proto->add_token_id_plus_1(token.token_id + 1);
    proto->add_logprob(token.logprob);
    proto->add_rank(token.rank);
    proto->add_non_finite(token.non_finite);
    proto->add_top_count(static_cast<int32_t>(token.top.size()));
    for (const TokenLogprob& top : token.top) {
      proto->add_top_token_id(top.token_id);
      proto->add_top_logprob(top.logprob);
    }
  }
}

absl::StatusOr<std::vector<SampledToken>> Read(const pb::SampledTokens& proto) {
  const int n = proto.slot_size();
  if (proto.position_size() != n || proto.token_id_plus_1_size() != n ||
      proto.logprob_size() != n || proto.rank_size() != n || proto.non_finite_size() != n ||
      proto.top_count_size() != n || proto.top_token_id_size() != proto.top_logprob_size()) {
    return absl::InvalidArgumentError("step result: lists of sampled tokens differ in length");
  }
  std::vector<SampledToken> tokens(n);
  int top_begin = 0;
  for (int i = 0; i < n; ++i) {
    SampledToken& token = tokens[i];
    token.slot = proto.slot(i);
    token.position = proto.position(i);
    if (proto.token_id_plus_1(i) < 0) {
      return absl::InvalidArgumentError("step result: negative token id");
    }
    token.token_id = proto.token_id_plus_1(i) - 1;
    token.logprob = proto.logprob(i);
    token.rank = proto.rank(i);
    token.non_finite = proto.non_finite(i);
    const int top_count = proto.top_count(i);
    if (top_count < 0 || top_count > proto.top_token_id_size() - top_begin) {
      return absl::InvalidArgumentError(
          absl::StrCat("step result: token ", i, " has ", top_count, " alternatives of ",
                       proto.top_token_id_size() - top_begin, " that are left"));
    }
    token.top.reserve(top_count);
    for (int k = top_begin; k < top_begin + top_count; ++k) {
      token.top.push_back({proto.top_token_id(k), proto.top_logprob(k)});
    }
    top_begin += top_count;
  }
  if (top_begin != proto.top_token_id_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("step result: ", proto.top_token_id_size() - top_begin,
                     " alternatives that belong to no token"));
  }
  return tokens;
}

struct WorkerWriter {
  pb::WorkerMessage* proto;

  void operator()(const Hello& hello) const {
    pb::Hello* out = proto->mutable_hello();
    out->set_credential(hello.credential);
    out->set_build_id(hello.build_id);
    out->set_host(hello.host);
    out->set_pid(hello.pid);
    out->set_device(hello.device);
    out->set_collectives(hello.collectives);
    Write(hello.endpoint, out->mutable_endpoint());
    out->set_memory_bytes(hello.memory_bytes);
    if (hello.loaded.has_value()) Write(*hello.loaded, out->mutable_loaded());
  }
  void operator()(const Heartbeat& heartbeat) const {
    proto->mutable_heartbeat()->set_step_count(heartbeat.step_count);
    proto->mutable_heartbeat()->set_step_busy_us(heartbeat.step_busy_us);
  }
  void operator()(const LoadProgress& progress) const {
    proto->mutable_load_progress()->set_loaded_bytes(progress.loaded_bytes);
    proto->mutable_load_progress()->set_total_bytes(progress.total_bytes);
  }
  void operator()(const LoadResult& result) const {
    pb::LoadResult* out = proto->mutable_load_result();
    out->set_status_code(StatusCode(result.status));
    out->set_error(std::string(result.status.message()));
    if (result.status.ok()) Write(result.loaded, out->mutable_loaded());
  }
  void operator()(const JoinResult& result) const {
    pb::JoinResult* out = proto->mutable_join_result();
    out->set_epoch(result.epoch);
    out->set_status_code(StatusCode(result.status));
    out->set_error(std::string(result.status.message()));
  }
  void operator()(const StepResult& result) const {
    pb::StepResult* out = proto->mutable_step_result();
    out->set_epoch(result.epoch);
    out->set_step_id(result.step_id);
    Write(result.sampled, out->mutable_sampled());
    if (!result.prompt_logprobs.empty()) {
      Write(result.prompt_logprobs, out->mutable_prompt_logprobs());
    }
    for (const int64_t us : result.stage_us) out->add_stage_us(us);
  }
  void operator()(const StepFailed& failed) const {
    pb::StepFailed* out = proto->mutable_step_failed();
    out->set_epoch(failed.epoch);
    out->set_status_code(StatusCode(failed.status));
    out->set_error(std::string(failed.status.message()));
  }
};

struct CoordinatorWriter {
  pb::CoordinatorMessage* proto;

  void operator()(const Welcome& welcome) const {
    pb::Welcome* out = proto->mutable_welcome();
    out->set_worker_id(welcome.worker_id);
    out->set_heartbeat_interval_ms(welcome.heartbeat_interval_ms);
    out->set_heartbeat_timeout_ms(welcome.heartbeat_timeout_ms);
  }
  void operator()(const Heartbeat&) const { proto->mutable_heartbeat(); }
  void operator()(const LoadModel& load) const { Write(load, proto->mutable_load_model()); }
  void operator()(const JoinGroup& join) const {
    pb::JoinGroup* out = proto->mutable_join_group();
    out->set_epoch(join.epoch);
    out->set_secret(join.secret);
    for (const RankEndpoint& endpoint : join.ranks) Write(endpoint, out->add_ranks());
    Write(join.limits, out->mutable_limits());
    out->set_timeout_ms(join.timeout_ms);
  }
  void operator()(const LeaveGroup& leave) const {
    proto->mutable_leave_group()->set_epoch(leave.epoch);
    proto->mutable_leave_group()->set_reason(leave.reason);
  }
  void operator()(const StepPlan& plan) const { Write(plan, proto->mutable_step_plan()); }
};

Hello Read(const pb::Hello& proto) {
  Hello hello;
  hello.credential = proto.credential();
  hello.build_id = proto.build_id();
  hello.host = proto.host();
  hello.pid = proto.pid();
  hello.device = proto.device();
  hello.collectives = proto.collectives();
  hello.endpoint = Read(proto.endpoint());
  hello.memory_bytes = proto.memory_bytes();
  if (proto.has_loaded()) hello.loaded = Read(proto.loaded());
  return hello;
}

JoinGroup Read(const pb::JoinGroup& proto) {
  JoinGroup join;
  join.epoch = proto.epoch();
  join.secret = proto.secret();
  for (const pb::RankEndpoint& endpoint : proto.ranks()) join.ranks.push_back(Read(endpoint));
  join.limits = Read(proto.limits());
  join.timeout_ms = proto.timeout_ms();
  return join;
}

absl::StatusOr<StepResult> Read(const pb::StepResult& proto) {
  StepResult result;
  result.epoch = proto.epoch();
  result.step_id = proto.step_id();
  ASSIGN_OR_RETURN(result.sampled, Read(proto.sampled()));
  ASSIGN_OR_RETURN(result.prompt_logprobs, Read(proto.prompt_logprobs()));
  // Every stage has a layer.
  if (proto.stage_us_size() > kMaxLayers) {
    return absl::InvalidArgumentError(absl::StrCat("step result: times of ", proto.stage_us_size(),
                                                   " stages, at most ", kMaxLayers));
  }
  for (const int64_t us : proto.stage_us()) {
    if (us < 0) return absl::InvalidArgumentError(absl::StrCat("step result: stage time ", us));
  }
  result.stage_us.assign(proto.stage_us().begin(), proto.stage_us().end());
  return result;
}

}  // namespace

void ToProto(const WorkerMessage& message, pb::WorkerMessage* proto) {
  proto->Clear();
  std::visit(WorkerWriter{proto}, message);
}

void ToProto(const CoordinatorMessage& message, pb::CoordinatorMessage* proto) {
  proto->Clear();
  std::visit(CoordinatorWriter{proto}, message);
}

absl::StatusOr<WorkerMessage> FromProto(const pb::WorkerMessage& proto) {
  switch (proto.message_case()) {
    case pb::WorkerMessage::kHello:
      return Read(proto.hello());
    case pb::WorkerMessage::kHeartbeat:
      return Heartbeat{proto.heartbeat().step_count(), proto.heartbeat().step_busy_us()};
    case pb::WorkerMessage::kLoadProgress:
      return LoadProgress{proto.load_progress().loaded_bytes(),
                          proto.load_progress().total_bytes()};
    case pb::WorkerMessage::kLoadResult:
      return LoadResult{ToStatus(proto.load_result().status_code(), proto.load_result().error()),
                        Read(proto.load_result().loaded())};
    case pb::WorkerMessage::kJoinResult:
      return JoinResult{proto.join_result().epoch(),
                        ToStatus(proto.join_result().status_code(), proto.join_result().error())};
    case pb::WorkerMessage::kStepResult: {
      ASSIGN_OR_RETURN(StepResult result, Read(proto.step_result()));
      return result;
    }
    case pb::WorkerMessage::kStepFailed:
      return StepFailed{proto.step_failed().epoch(),
                        ToStatus(proto.step_failed().status_code(), proto.step_failed().error())};
    case pb::WorkerMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a worker message without content");
}

absl::StatusOr<CoordinatorMessage> FromProto(const pb::CoordinatorMessage& proto) {
  switch (proto.message_case()) {
    case pb::CoordinatorMessage::kWelcome:
      return Welcome{proto.welcome().worker_id(), proto.welcome().heartbeat_interval_ms(),
                     proto.welcome().heartbeat_timeout_ms()};
    case pb::CoordinatorMessage::kHeartbeat:
      return Heartbeat{};
    case pb::CoordinatorMessage::kLoadModel:
      return Read(proto.load_model());
    case pb::CoordinatorMessage::kJoinGroup:
      return Read(proto.join_group());
    case pb::CoordinatorMessage::kLeaveGroup:
      return LeaveGroup{proto.leave_group().epoch(), proto.leave_group().reason()};
    case pb::CoordinatorMessage::kStepPlan: {
      ASSIGN_OR_RETURN(StepPlan plan, Read(proto.step_plan()));
      return plan;
    }
    case pb::CoordinatorMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a coordinator message without content");
}

}  // namespace bora
