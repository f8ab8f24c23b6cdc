#include "model/protocol/worker_codec.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/config.h"
#include "model/protocol/peer_text.h"
#include "model/protocol/sampling_codec.h"

namespace bora {
namespace {

// Numbers of all digests of a rank: high and low half of each part.
constexpr int64_t kNDigestNumbers = int64_t{2} * kNDigestParts;

namespace pb = worker::v1alpha1;

// Bits of a row's flags in StepPlan.rows of the protocol.
constexpr int32_t kUseLastSampled = 1;
constexpr int32_t kSample = 2;
constexpr int32_t kPromptLogprobs = 4;
constexpr int32_t kAllRowFlags = kUseLastSampled | kSample | kPromptLogprobs;

// Upper limits of numbers and texts, far above what any correct peer sends.
//
// Bytes of one rank's weights, of its KV cache and of its memory: 2^60, so that sums of a few of
// them do not overflow.
constexpr int64_t kMaxBytes = int64_t{1} << 60;
// An epoch is a count or a Unix time. The latest epoch that a worker may claim is lower than the
// greatest one by 2^32, so that the coordinator can still count on from there.
constexpr int64_t kMaxEpoch = int64_t{1} << 62;
constexpr int64_t kMaxLatestEpoch = kMaxEpoch - (int64_t{1} << 32);
// A longer address is refused and never cut, since addresses are compared and dialled.
constexpr size_t kMaxAddressBytes = 256;
constexpr size_t kMaxPathBytes = 4096;  // PATH_MAX
constexpr size_t kMaxWordBytes = 64;    // "bfloat16", a digest in hexadecimal
constexpr int32_t kMaxRanks = 1 << 16;

// OK if begin <= value <= last. `name` is a field of a message.
absl::Status CheckRange(absl::string_view name, int64_t value, int64_t begin, int64_t last) {
  if (value >= begin && value <= last) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, " is not in [", begin, ", ", last, "]"));
}

// OK if `text` has at most max_bytes bytes. `name` is a field of a message.
absl::Status CheckLength(absl::string_view name, const std::string& text, size_t max_bytes) {
  if (text.size() <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", text.size(), " bytes, at most ", max_bytes));
}

int32_t StatusCode(const absl::Status& status) { return static_cast<int32_t>(status.code()); }

// Returns the Status that a peer sent. A code outside [0, 16], which absl does not know, is
// UNKNOWN.
absl::Status ToStatus(int32_t code, const std::string& message) {
  const std::string text = PeerText(message, kMaxPeerReasonBytes);
  if (code < 0 || code > 16) return absl::UnknownError(text);
  return absl::Status(static_cast<absl::StatusCode>(code), text);
}

// Escapes a reason also before it is sent: a protobuf message with a string that is not UTF-8
// cannot be parsed at all.
std::string ToText(const absl::Status& status) {
  return PeerText(status.message(), kMaxPeerReasonBytes);
}

void Write(const Endpoint& endpoint, pb::RankEndpoint* proto) {
  proto->set_host_id(endpoint.host_id);
  proto->set_tcp_address(endpoint.tcp_address);
  proto->set_unix_name(endpoint.unix_name);
}

absl::StatusOr<Endpoint> Read(const pb::RankEndpoint& proto) {
  RETURN_IF_ERROR(CheckLength("endpoint host_id", proto.host_id(), kMaxAddressBytes));
  RETURN_IF_ERROR(CheckLength("endpoint tcp_address", proto.tcp_address(), kMaxAddressBytes));
  RETURN_IF_ERROR(CheckLength("endpoint unix_name", proto.unix_name(), kMaxAddressBytes));
  return Endpoint{proto.host_id(), proto.tcp_address(), proto.unix_name()};
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

// Checks only lengths. Whether the numbers fit the model and each other is for the loader to check.
absl::StatusOr<LoadModel> Read(const pb::LoadModel& proto) {
  RETURN_IF_ERROR(CheckLength("model_path", proto.model_path(), kMaxPathBytes));
  RETURN_IF_ERROR(CheckLength("dtype", proto.dtype(), kMaxWordBytes));
  RETURN_IF_ERROR(CheckLength("quantization", proto.quantization(), kMaxWordBytes));
  RETURN_IF_ERROR(
      CheckRange("layers_per_stage.size", proto.layers_per_stage_size(), 0, kMaxLayers));
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
  for (const DigestSum& part : loaded.digests.parts) {
    proto->add_digests(part.high);
    proto->add_digests(part.low);
  }
}

absl::StatusOr<LoadedModel> Read(const pb::LoadedModel& proto) {
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.load, Read(proto.load()));
  loaded.fingerprint = PeerText(proto.fingerprint(), kMaxPeerNameBytes);
  loaded.weight_bytes = proto.weight_bytes();
  loaded.kv_block_bytes = proto.kv_block_bytes();
  loaded.max_blocks = proto.max_blocks();
  loaded.kv_memory_is_reserved = proto.kv_memory_is_reserved();
  RETURN_IF_ERROR(CheckRange("weight_bytes", loaded.weight_bytes, 0, kMaxBytes));
  RETURN_IF_ERROR(CheckRange("kv_block_bytes", loaded.kv_block_bytes, 1, kMaxBytes));
  // The size of the KV cache is kv_block_bytes * max_blocks, which must not exceed kMaxBytes.
  RETURN_IF_ERROR(
      CheckRange("max_blocks", loaded.max_blocks, 0, kMaxBytes / loaded.kv_block_bytes));
  // Without digests from the sender they stay 0, as for dummy weights.
  if (proto.digests_size() == 0) return loaded;
  RETURN_IF_ERROR(
      CheckRange("digests.size", proto.digests_size(), kNDigestNumbers, kNDigestNumbers));
  for (int i = 0; i < kNDigestParts; ++i) {
    loaded.digests.parts[i] = {proto.digests(2 * i), proto.digests(2 * i + 1)};
  }
  return loaded;
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
    WriteSampling(open.sampling, item->mutable_sampling());
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
                           ReadSampling(item.sampling()),
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

absl::StatusOr<std::vector<SampledToken>> Read(const pb::SampledTokens& proto, int max_tokens) {
  const int n = proto.slot_size();
  RETURN_IF_ERROR(CheckRange("step result: sampled tokens", n, 0, max_tokens));
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
    RETURN_IF_ERROR(
        CheckRange("step result: token_id_plus_1", proto.token_id_plus_1(i), 0, kMaxVocabSize));
    RETURN_IF_ERROR(CheckRange("step result: rank", proto.rank(i), 0, kMaxVocabSize));
    token.token_id = proto.token_id_plus_1(i) - 1;
    token.logprob = proto.logprob(i);
    token.rank = proto.rank(i);
    token.non_finite = proto.non_finite(i);
    const int top_count = proto.top_count(i);
    RETURN_IF_ERROR(CheckRange("step result: top_count", top_count, 0, kMaxLogprobs));
    if (top_count > proto.top_token_id_size() - top_begin) {
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

// Writes each kind of message to its field of `proto`, which is empty.
struct WorkerWriter {
  pb::WorkerMessage* proto;

  void operator()(const Hello& hello) const {
    pb::Hello* out = proto->mutable_hello();
    out->set_build_id(hello.build_id);
    out->set_host(hello.host);
    out->set_pid(hello.pid);
    out->set_device(hello.device);
    out->set_collectives(hello.collectives);
    Write(hello.endpoint, out->mutable_endpoint());
    out->set_memory_bytes(hello.memory_bytes);
    if (hello.loaded.has_value()) Write(*hello.loaded, out->mutable_loaded());
    out->set_latest_epoch(hello.latest_epoch);
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
    out->set_error(ToText(result.status));
    if (result.status.ok()) Write(result.loaded, out->mutable_loaded());
  }
  void operator()(const JoinResult& result) const {
    pb::JoinResult* out = proto->mutable_join_result();
    out->set_epoch(result.epoch);
    out->set_status_code(StatusCode(result.status));
    out->set_error(ToText(result.status));
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
    out->set_error(ToText(failed.status));
  }
};

// Writes each kind of message to its field of `proto`, which is empty.
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
    for (const Endpoint& endpoint : join.ranks) Write(endpoint, out->add_ranks());
    Write(join.limits, out->mutable_limits());
    out->set_timeout_ms(join.timeout_ms);
  }
  void operator()(const LeaveGroup& leave) const {
    proto->mutable_leave_group()->set_epoch(leave.epoch);
    proto->mutable_leave_group()->set_reason(PeerText(leave.reason, kMaxPeerReasonBytes));
  }
  void operator()(const StepPlan& plan) const { Write(plan, proto->mutable_step_plan()); }
};

absl::StatusOr<Hello> Read(const pb::Hello& proto) {
  Hello hello;
  hello.build_id = PeerText(proto.build_id(), kMaxPeerNameBytes);
  hello.host = PeerText(proto.host(), kMaxPeerNameBytes);
  hello.pid = proto.pid();
  hello.device = PeerText(proto.device(), kMaxPeerNameBytes);
  hello.collectives = PeerText(proto.collectives(), kMaxPeerNameBytes);
  ASSIGN_OR_RETURN(hello.endpoint, Read(proto.endpoint()));
  hello.memory_bytes = proto.memory_bytes();
  RETURN_IF_ERROR(CheckRange("pid", hello.pid, 0, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckRange("memory_bytes", hello.memory_bytes, 0, kMaxBytes));
  hello.latest_epoch = proto.latest_epoch();
  RETURN_IF_ERROR(CheckRange("latest_epoch", hello.latest_epoch, 0, kMaxLatestEpoch));
  if (proto.has_loaded()) {
    ASSIGN_OR_RETURN(hello.loaded, Read(proto.loaded()));
  }
  return hello;
}

absl::StatusOr<JoinGroup> Read(const pb::JoinGroup& proto) {
  RETURN_IF_ERROR(CheckRange("epoch", proto.epoch(), 1, kMaxEpoch));
  RETURN_IF_ERROR(CheckRange("ranks.size", proto.ranks_size(), 0, kMaxRanks));
  RETURN_IF_ERROR(CheckLength("secret", proto.secret(), kMaxWordBytes));
  JoinGroup join;
  join.epoch = proto.epoch();
  join.secret = proto.secret();
  join.ranks.reserve(proto.ranks_size());
  for (const pb::RankEndpoint& endpoint : proto.ranks()) {
    ASSIGN_OR_RETURN(join.ranks.emplace_back(), Read(endpoint));
  }
  join.limits = Read(proto.limits());
  join.timeout_ms = proto.timeout_ms();
  return join;
}

absl::StatusOr<StepResult> Read(const pb::StepResult& proto, const WorkerMessageLimits& limits) {
  StepResult result;
  result.epoch = proto.epoch();
  result.step_id = proto.step_id();
  ASSIGN_OR_RETURN(result.sampled, Read(proto.sampled(), limits.max_sampled));
  ASSIGN_OR_RETURN(result.prompt_logprobs,
                   Read(proto.prompt_logprobs(), limits.max_prompt_logprobs));
  if (proto.stage_us_size() > limits.n_stages) {
    return absl::InvalidArgumentError(absl::StrCat("step result: times of ", proto.stage_us_size(),
                                                   " stages, at most ", limits.n_stages));
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

void ToProto(const StepPlan& plan, pb::CoordinatorMessage* proto) {
  proto->Clear();
  CoordinatorWriter{proto}(plan);
}

int64_t MaxWorkerMessageBytes(const WorkerMessageLimits& limits) {
  // A token has four varints of up to 5 bytes, a float, a boolean and the number of its
  // alternatives. An alternative has a varint and a float.
  constexpr int64_t kTokenBytes = 4 * 5 + 4 + 1 + 1 + int64_t{kMaxLogprobs} * (5 + 4);
  // For the rest of a result, and for messages of other kinds. A stage time is a varint of up to 10
  // bytes.
  constexpr int64_t kOtherBytes = 64 << 10;
  return kOtherBytes + limits.n_stages * int64_t{10} +
         (int64_t{limits.max_sampled} + limits.max_prompt_logprobs) * kTokenBytes;
}

absl::StatusOr<WorkerMessage> FromProto(const pb::WorkerMessage& proto,
                                        const WorkerMessageLimits& limits) {
  switch (proto.message_case()) {
    case pb::WorkerMessage::kHello: {
      ASSIGN_OR_RETURN(Hello hello, Read(proto.hello()));
      return hello;
    }
    case pb::WorkerMessage::kHeartbeat:
      return Heartbeat{proto.heartbeat().step_count(), proto.heartbeat().step_busy_us()};
    case pb::WorkerMessage::kLoadProgress:
      return LoadProgress{proto.load_progress().loaded_bytes(),
                          proto.load_progress().total_bytes()};
    case pb::WorkerMessage::kLoadResult: {
      LoadResult result;
      result.status = ToStatus(proto.load_result().status_code(), proto.load_result().error());
      if (result.status.ok()) {
        ASSIGN_OR_RETURN(result.loaded, Read(proto.load_result().loaded()));
      }
      return result;
    }
    case pb::WorkerMessage::kJoinResult:
      return JoinResult{proto.join_result().epoch(),
                        ToStatus(proto.join_result().status_code(), proto.join_result().error())};
    case pb::WorkerMessage::kStepResult: {
      ASSIGN_OR_RETURN(StepResult result, Read(proto.step_result(), limits));
      return result;
    }
    case pb::WorkerMessage::kStepFailed:
      return StepFailed{proto.step_failed().epoch(),
                        ToStatus(proto.step_failed().status_code(), proto.step_failed().error())};
    case pb::WorkerMessage::kAuthResponse:
      return absl::InvalidArgumentError("a worker authenticates once");
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
    case pb::CoordinatorMessage::kLoadModel: {
      ASSIGN_OR_RETURN(LoadModel load, Read(proto.load_model()));
      return load;
    }
    case pb::CoordinatorMessage::kJoinGroup: {
      ASSIGN_OR_RETURN(JoinGroup join, Read(proto.join_group()));
      return join;
    }
    case pb::CoordinatorMessage::kLeaveGroup:
      RETURN_IF_ERROR(CheckRange("epoch", proto.leave_group().epoch(), 0, kMaxEpoch));
      return LeaveGroup{proto.leave_group().epoch(),
                        PeerText(proto.leave_group().reason(), kMaxPeerReasonBytes)};
    case pb::CoordinatorMessage::kStepPlan: {
      ASSIGN_OR_RETURN(StepPlan plan, Read(proto.step_plan()));
      return plan;
    }
    case pb::CoordinatorMessage::kAuthChallenge:
    case pb::CoordinatorMessage::kAuthConfirmation:
      return absl::InvalidArgumentError("a coordinator authenticates once");
    case pb::CoordinatorMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a coordinator message without content");
}

}  // namespace bora
