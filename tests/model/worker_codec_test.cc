// Every message survives the wire, and what does not fit together is refused.
#include "model/protocol/worker_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "model/protocol/sampling_codec.h"
#include "model/step/sampling_fields.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;
using ::testing::HasSubstr;

// Through the bytes that travel.
template <typename Proto, typename Message>
auto OverTheWire(const Message& message) {
  Proto sent;
  sent.mutable_heartbeat();  // ToProto clears what was there
  ToProto(message, &sent);
  Proto received;
  EXPECT_TRUE(received.ParseFromString(sent.SerializeAsString()));
  return FromProto(received);
}

template <typename T>
T FromWorker(const T& message) {
  const auto received = OverTheWire<pb::WorkerMessage>(WorkerMessage(message));
  EXPECT_TRUE(received.ok()) << received.status();
  EXPECT_TRUE(received.ok() && std::holds_alternative<T>(*received));
  return std::get<T>(*received);
}

template <typename T>
T FromCoordinator(const T& message) {
  const auto received = OverTheWire<pb::CoordinatorMessage>(CoordinatorMessage(message));
  EXPECT_TRUE(received.ok()) << received.status();
  EXPECT_TRUE(received.ok() && std::holds_alternative<T>(*received));
  return std::get<T>(*received);
}

template <typename Proto>
void ExpectRefused(const Proto& proto, const std::string& message) {
  const auto received = FromProto(proto);
  ASSERT_FALSE(received.ok());
  EXPECT_EQ(received.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(received.status().message()), HasSubstr(message));
}

LoadModel SomeLoad() {
  return {.model_path = "/models/m",
          .dummy_weights = true,
          .dummy_seed = std::numeric_limits<uint64_t>::max(),
          .dtype = "bfloat16",
          .quantization = "int8",
          .tensor_parallel_size = 2,
          .layers_per_stage = {17, 15},
          .stage = 1,
          .tensor_rank = 1,
          .max_model_len = 4096};
}

LoadedModel SomeLoaded() {
  return {.load = SomeLoad(),
          .fingerprint = "abc",
          .weight_bytes = int64_t{1} << 40,
          .kv_block_bytes = 65536,
          .max_blocks = int64_t{1} << 33,
          .digests = {{{{1, 2}, {3, 4}, {5, uint64_t{1} << 63}, {7, 8}, {9, 10}}}}};
}

// Every field of a plan differs from its default somewhere.
StepPlan SomePlan() {
  StepPlan plan;
  plan.epoch = int64_t{1} << 41;
  plan.step_id = 12;
  plan.closed = {3, 0};
  SlotOpen open;
  open.slot = 3;
  open.n_prompt_tokens = 2;
  open.n_generated_tokens = 1;
  open.n_cached_tokens = 16;
  open.sampling = {.temperature = 0.1f,
                   .top_p = 0.9f,
                   .top_k = 40,
                   .min_p = 0.05f,
                   .seed = std::numeric_limits<uint64_t>::max(),
                   .n_logprobs = 20,
                   .n_prompt_logprobs = 0,
                   .min_tokens = 3,
                   .stop_token_ids = {2, 7},
                   .repetition_penalty = 1.5f,
                   .frequency_penalty = -0.25f,
                   .presence_penalty = 2};
  open.known_tokens = {31999, 0, 4};
  plan.opened = {open, SlotOpen{.slot = 0, .n_prompt_tokens = 1}};
  plan.grants = {{3, 0, 9}, {0, 0, 4}};
  plan.rows = {{.slot = 1, .position = 8, .n_tokens = 1, .use_last_sampled = true, .sample = true},
               {.slot = 3, .position = 0, .n_tokens = 2, .token_begin = 0, .prompt_logprobs = true},
               {.slot = 0, .position = 0, .n_tokens = 1, .token_begin = 2, .sample = true}};
  plan.tokens = {5, 0, 31999};
  plan.next_tokens = {-1, 0, -1};
  return plan;
}

StepResult SomeResult() {
  StepResult result;
  result.epoch = 9;
  result.step_id = 1;
  result.sampled = {{.slot = 1,
                     .position = 9,
                     .token_id = 0,
                     .logprob = -0.5f,
                     .rank = 2,
                     .top = {{17, -0.25f}, {0, -0.5f}}},
                    {.slot = 0, .position = 1, .token_id = -1, .non_finite = true},
                    {.slot = 2,
                     .position = 5,
                     .token_id = 31999,
                     .logprob = -std::numeric_limits<float>::infinity(),
                     .rank = 32000,
                     .top = {{1, -0.0f}}}};
  result.prompt_logprobs = {{.slot = 3, .position = 1, .token_id = 4, .logprob = -3, .rank = 1}};
  result.stage_us = {1234, 0, int64_t{1} << 40};
  return result;
}

TEST(SamplingCodecTest, EveryListedParameterTravelsByItself) {
  std::set<std::string> names = {"seed", "n_logprobs", "n_prompt_logprobs", "min_tokens",
                                 "stop_token_ids"};
  ForEachSamplingField([&](const auto& field) {
    SamplingParams sampling;
    sampling.*field.member = field.high;
    worker::v1alpha1::SamplingParams proto;
    WriteSampling(sampling, &proto);
    EXPECT_EQ(ReadSampling(proto), sampling) << field.name;
    names.insert(field.name);
  });
  std::set<std::string> in_protocol;
  const auto* descriptor = worker::v1alpha1::SamplingParams::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    in_protocol.insert(descriptor->field(i)->name());
  }
  EXPECT_EQ(names, in_protocol);
}

TEST(WorkerCodecTest, CarriesHello) {
  Hello hello;
  hello.build_id = "0.1.0-abc";
  hello.host = "node-1";
  hello.pid = 4711;
  hello.device = "cpu";
  hello.collectives = "host";
  hello.endpoint = {"host id", "10.0.0.1:4000", "bora-7"};
  hello.memory_bytes = int64_t{1} << 36;
  hello.latest_epoch = int64_t{1} << 41;
  Hello received = FromWorker(hello);
  EXPECT_EQ(received.build_id, hello.build_id);
  EXPECT_EQ(received.host, hello.host);
  EXPECT_EQ(received.pid, hello.pid);
  EXPECT_EQ(received.device, hello.device);
  EXPECT_EQ(received.collectives, hello.collectives);
  EXPECT_EQ(received.endpoint, hello.endpoint);
  EXPECT_EQ(received.memory_bytes, hello.memory_bytes);
  EXPECT_EQ(received.latest_epoch, hello.latest_epoch);
  EXPECT_FALSE(received.loaded.has_value());
  hello.loaded = SomeLoaded();
  EXPECT_EQ(FromWorker(hello).loaded, hello.loaded);
}

TEST(WorkerCodecTest, CarriesHeartbeatsAndProgress) {
  EXPECT_EQ(FromWorker(Heartbeat{5, 6}).step_count, 5);
  EXPECT_EQ(FromWorker(Heartbeat{5, 6}).step_busy_us, 6);
  EXPECT_EQ(FromWorker(LoadProgress{1, int64_t{1} << 40}).loaded_bytes, 1);
  EXPECT_EQ(FromWorker(LoadProgress{1, int64_t{1} << 40}).total_bytes, int64_t{1} << 40);
  FromCoordinator(Heartbeat{});
}

TEST(WorkerCodecTest, CarriesLoadResults) {
  const LoadResult good = FromWorker(LoadResult{absl::OkStatus(), SomeLoaded()});
  EXPECT_TRUE(good.status.ok());
  EXPECT_EQ(good.loaded, SomeLoaded());
  const LoadResult bad = FromWorker(LoadResult{absl::NotFoundError("no file"), {}});
  EXPECT_EQ(bad.status, absl::NotFoundError("no file"));
}

TEST(WorkerCodecTest, CarriesJoinResultsAndFailures) {
  const JoinResult join = FromWorker(JoinResult{8, absl::UnavailableError("port")});
  EXPECT_EQ(join.epoch, 8);
  EXPECT_EQ(join.status, absl::UnavailableError("port"));
  EXPECT_TRUE(FromWorker(JoinResult{8, absl::OkStatus()}).status.ok());
  const StepFailed failed = FromWorker(StepFailed{8, absl::AbortedError("peer")});
  EXPECT_EQ(failed.epoch, 8);
  EXPECT_EQ(failed.status, absl::AbortedError("peer"));
}

TEST(WorkerCodecTest, CarriesStepResults) {
  EXPECT_EQ(FromWorker(SomeResult()), SomeResult());
  EXPECT_EQ(FromWorker(StepResult{}), StepResult{});
}

TEST(WorkerCodecTest, CarriesWhatTheCoordinatorSaysAboutGroups) {
  const Welcome welcome = FromCoordinator(Welcome{3, 250, 1500});
  EXPECT_EQ(welcome.worker_id, 3);
  EXPECT_EQ(welcome.heartbeat_interval_ms, 250);
  EXPECT_EQ(welcome.heartbeat_timeout_ms, 1500);
  EXPECT_EQ(FromCoordinator(SomeLoad()), SomeLoad());
  JoinGroup join;
  join.epoch = 77;
  join.secret = std::string(32, '\xff');
  join.ranks = {{"a", "a:1", "u1"}, {"b", "b:2", ""}};
  join.limits = {.max_num_seqs = 1,
                 .max_num_batched_tokens = 2,
                 .max_model_len = 3,
                 .block_size = 4,
                 .n_blocks = 5,
                 .vocab_size = 6};
  join.timeout_ms = 10000;
  const JoinGroup received = FromCoordinator(join);
  EXPECT_EQ(received.epoch, join.epoch);
  EXPECT_EQ(received.secret, join.secret);
  EXPECT_EQ(received.ranks, join.ranks);
  EXPECT_EQ(received.limits, join.limits);
  EXPECT_EQ(received.timeout_ms, join.timeout_ms);
  EXPECT_EQ(FromCoordinator(LeaveGroup{4, "why"}).reason, "why");
  EXPECT_EQ(FromCoordinator(LeaveGroup{4, "why"}).epoch, 4);
}

TEST(WorkerCodecTest, CarriesPlans) {
  EXPECT_EQ(FromCoordinator(SomePlan()), SomePlan());
  EXPECT_EQ(FromCoordinator(StepPlan{}), StepPlan{});
}

// The largest message that is sent again and again.
TEST(WorkerCodecTest, ADecodeRowTakesAFewBytes) {
  StepPlan plan;
  for (int32_t slot = 0; slot < 256; ++slot) {
    plan.rows.push_back(
        {.slot = slot, .position = 16000, .n_tokens = 1, .use_last_sampled = true, .sample = true});
  }
  pb::CoordinatorMessage proto;
  ToProto(CoordinatorMessage(plan), &proto);
  // Slot 1 or 2 bytes, position 3, n_tokens and flags 1 each.
  EXPECT_LE(proto.ByteSizeLong(), 256 * 7 + 32);
}

TEST(WorkerCodecTest, RefusesMessagesWithoutContent) {
  ExpectRefused(pb::WorkerMessage(), "without content");
  ExpectRefused(pb::CoordinatorMessage(), "without content");
}

TEST(WorkerCodecTest, TurnsUnknownStatusCodesIntoUnknown) {
  pb::WorkerMessage proto;
  for (const int32_t code : {-1, 17, std::numeric_limits<int32_t>::max()}) {
    proto.mutable_join_result()->set_status_code(code);
    proto.mutable_join_result()->set_error("what");
    const auto received = FromProto(proto);
    ASSERT_TRUE(received.ok());
    EXPECT_EQ(std::get<JoinResult>(*received).status, absl::UnknownError("what"));
  }
}

class PlanCodecTest : public testing::Test {
 protected:
  PlanCodecTest() { ToProto(CoordinatorMessage(SomePlan()), &proto_); }
  pb::StepPlan* plan() { return proto_.mutable_step_plan(); }
  pb::CoordinatorMessage proto_;
};

TEST_F(PlanCodecTest, RefusesListsThatAreNotMultiples) {
  plan()->add_grants(1);
  ExpectRefused(proto_, "7 integers of grants and 12 of rows, expected multiples of 3 and 4");
  plan()->mutable_grants()->RemoveLast();
  plan()->mutable_rows()->RemoveLast();
  ExpectRefused(proto_, "6 integers of grants and 11 of rows");
}

TEST_F(PlanCodecTest, RefusesUnknownFlags) {
  plan()->set_rows(3, 8);
  ExpectRefused(proto_, "row 0 has flags 8");
  plan()->set_rows(3, -1);
  ExpectRefused(proto_, "row 0 has flags -1");
}

TEST_F(PlanCodecTest, RefusesRowsOfMoreTokensThanThereAre) {
  plan()->set_rows(6, std::numeric_limits<int32_t>::max());
  ExpectRefused(proto_, "row 1 of 2147483647 tokens, the plan has 3");
  plan()->set_rows(6, 0);
  ExpectRefused(proto_, "row 1 of 0 tokens");
  plan()->set_rows(6, -5);
  ExpectRefused(proto_, "row 1 of -5 tokens");
}

TEST_F(PlanCodecTest, RefusesNegativeNextTokens) {
  plan()->set_next_tokens_plus_1(1, std::numeric_limits<int32_t>::min());
  ExpectRefused(proto_, "next token -2147483649");
}

class ResultCodecTest : public testing::Test {
 protected:
  ResultCodecTest() { ToProto(WorkerMessage(SomeResult()), &proto_); }
  pb::SampledTokens* sampled() { return proto_.mutable_step_result()->mutable_sampled(); }
  pb::WorkerMessage proto_;
};

TEST_F(ResultCodecTest, RefusesListsOfDifferentLengths) {
  const auto refuse = [this](auto* list) {
    const auto last = list->Get(list->size() - 1);
    list->RemoveLast();
    ExpectRefused(proto_, "lists of sampled tokens differ in length");
    list->Add(last);
  };
  refuse(sampled()->mutable_slot());
  refuse(sampled()->mutable_position());
  refuse(sampled()->mutable_token_id_plus_1());
  refuse(sampled()->mutable_logprob());
  refuse(sampled()->mutable_rank());
  refuse(sampled()->mutable_non_finite());
  refuse(sampled()->mutable_top_count());
  refuse(sampled()->mutable_top_token_id());
  refuse(sampled()->mutable_top_logprob());
  EXPECT_TRUE(FromProto(proto_).ok());
  proto_.mutable_step_result()->mutable_prompt_logprobs()->add_slot(1);
  ExpectRefused(proto_, "lists of sampled tokens differ in length");
}

TEST_F(ResultCodecTest, RefusesMoreAlternativesThanThereAre) {
  sampled()->set_top_count(2, 2);
  ExpectRefused(proto_, "token 2 has 2 alternatives of 1 that are left");
  sampled()->set_top_count(2, -1);
  ExpectRefused(proto_, "top_count: -1 is not in [0, 20]");
}

TEST_F(ResultCodecTest, RefusesAlternativesThatBelongToNobody) {
  sampled()->set_top_count(2, 0);
  ExpectRefused(proto_, "1 alternatives that belong to no token");
}

TEST_F(ResultCodecTest, RefusesNegativeTimes) {
  proto_.mutable_step_result()->set_stage_us(1, -1);
  ExpectRefused(proto_, "stage time -1");
}

TEST_F(ResultCodecTest, RefusesTimesOfMoreStagesThanAModelHasLayers) {
  pb::StepResult* result = proto_.mutable_step_result();
  while (result->stage_us_size() < 1024) result->add_stage_us(1);
  EXPECT_TRUE(FromProto(proto_).ok());
  result->add_stage_us(1);
  ExpectRefused(proto_, "times of 1025 stages, at most 1024");
}

TEST_F(ResultCodecTest, RefusesNegativeTokens) {
  sampled()->set_token_id_plus_1(0, -1);
  ExpectRefused(proto_, "token_id_plus_1: -1 is not in [0, 1048576]");
}

TEST_F(ResultCodecTest, RefusesMoreThanTheGroupCanHaveAsked) {
  const WorkerMessageLimits limits = {.max_sampled = 2, .max_prompt_logprobs = 4, .n_stages = 8};
  const auto refused = FromProto(proto_, limits);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("3 is not in [0, 2]"));
  // Seven million alternatives of one token.
  sampled()->set_top_count(2, 7'000'000);
  for (int i = 0; i < 7'000'000; ++i) {
    sampled()->add_top_token_id(1);
    sampled()->add_top_logprob(-1);
  }
  ExpectRefused(proto_, "top_count: 7000000 is not in [0, 20]");
}

TEST_F(ResultCodecTest, RefusesTokensOfNoVocabulary) {
  sampled()->set_token_id_plus_1(0, std::numeric_limits<int32_t>::max());
  ExpectRefused(proto_, "token_id_plus_1: 2147483647 is not in [0, 1048576]");
}

TEST_F(ResultCodecTest, RefusesRanksOfNoVocabulary) {
  sampled()->set_rank(0, -5);
  ExpectRefused(proto_, "rank: -5 is not in [0, 1048576]");
}

TEST(WorkerMessageLimitsTest, HoldTheLargestResult) {
  const WorkerMessageLimits limits = {.max_sampled = 8, .max_prompt_logprobs = 32, .n_stages = 4};
  constexpr int32_t kLargest = std::numeric_limits<int32_t>::max();
  SampledToken token = {
      .slot = kLargest, .position = kLargest, .token_id = 1 << 20, .rank = 1 << 20};
  token.top.assign(kMaxLogprobs, {kLargest, -1.5f});
  StepResult result;
  result.epoch = result.step_id = std::numeric_limits<int64_t>::max();
  result.sampled.assign(limits.max_sampled, token);
  result.prompt_logprobs.assign(limits.max_prompt_logprobs, token);
  result.stage_us.assign(limits.n_stages, std::numeric_limits<int64_t>::max());
  pb::WorkerMessage proto;
  ToProto(WorkerMessage(result), &proto);
  EXPECT_LE(static_cast<int64_t>(proto.ByteSizeLong()), MaxWorkerMessageBytes(limits));
  // And it is no loose bound.
  EXPECT_GE(static_cast<int64_t>(proto.ByteSizeLong()) + (64 << 10),
            MaxWorkerMessageBytes(limits) / 2);
}

// One field of an honest message at a time.
class RangesTest : public testing::Test {
 protected:
  RangesTest() {
    ToProto(WorkerMessage(LoadResult{absl::OkStatus(), SomeLoaded()}), &result_);
    JoinGroup join;
    join.epoch = 5;
    join.secret = std::string(32, 's');
    join.ranks = {{"h", "127.0.0.1:1", "u"}};
    ToProto(CoordinatorMessage(join), &join_);
  }
  pb::LoadedModel* loaded() { return result_.mutable_load_result()->mutable_loaded(); }

  pb::WorkerMessage result_;
  pb::CoordinatorMessage join_;
};

TEST_F(RangesTest, RefusesSizesThatNoMachineHas) {
  EXPECT_TRUE(FromProto(result_).ok());
  for (const int64_t bad : {int64_t{-1}, std::numeric_limits<int64_t>::min(),
                            -((int64_t{1} << 59) + 1), std::numeric_limits<int64_t>::max()}) {
    const pb::WorkerMessage good = result_;
    loaded()->set_max_blocks(bad);
    ExpectRefused(result_, absl::StrCat("max_blocks: ", bad));
    result_ = good;
    loaded()->set_weight_bytes(bad);
    ExpectRefused(result_, absl::StrCat("weight_bytes: ", bad));
    result_ = good;
    loaded()->set_kv_block_bytes(bad);
    ExpectRefused(result_, absl::StrCat("kv_block_bytes: ", bad));
    result_ = good;
  }
  loaded()->set_kv_block_bytes(0);
  ExpectRefused(result_, "kv_block_bytes: 0 is not in [1, ");
}

TEST_F(RangesTest, RefusesAProductThatWraps) {
  loaded()->set_kv_block_bytes(int64_t{1} << 31);
  loaded()->set_max_blocks(int64_t{1} << 31);
  ExpectRefused(result_, "max_blocks: 2147483648 is not in [0, 536870912]");
}

TEST_F(RangesTest, ReadsNothingOfAModelThatWasNotLoaded) {
  result_.mutable_load_result()->set_status_code(5);
  loaded()->set_max_blocks(-1);
  const auto received = FromProto(result_);
  ASSERT_TRUE(received.ok());
  EXPECT_EQ(std::get<LoadResult>(*received).loaded, LoadedModel());
}

TEST_F(RangesTest, CutsAndEscapesTexts) {
  result_.mutable_load_result()->set_status_code(13);
  result_.mutable_load_result()->set_error("\n" + std::string(10 << 20, 'e'));
  const auto received = FromProto(result_);
  ASSERT_TRUE(received.ok());
  const absl::string_view error = std::get<LoadResult>(*received).status.message();
  EXPECT_EQ(error.size(), 1024u);
  EXPECT_EQ(error.substr(0, 6), "\\x0aee");
  EXPECT_EQ(error.substr(error.size() - 3), "…");

  pb::WorkerMessage hello;
  hello.mutable_hello()->set_host(std::string(60 << 20, 'h'));
  hello.mutable_hello()->set_device("\x1b[2J");
  const auto said = FromProto(hello);
  ASSERT_TRUE(said.ok());
  EXPECT_EQ(std::get<Hello>(*said).host.size(), 128u);
  EXPECT_EQ(std::get<Hello>(*said).device, "\\x1b[2J");
}

TEST_F(RangesTest, RefusesAddressesThatAreTooLong) {
  pb::WorkerMessage hello;
  hello.mutable_hello()->mutable_endpoint()->set_host_id(std::string(257, 'h'));
  ExpectRefused(hello, "endpoint host_id: 257 bytes, at most 256");
  hello.mutable_hello()->mutable_endpoint()->clear_host_id();
  hello.mutable_hello()->set_pid(-1);
  ExpectRefused(hello, "pid: -1");
  hello.mutable_hello()->set_pid(1);
  hello.mutable_hello()->set_memory_bytes(-1);
  ExpectRefused(hello, "memory_bytes: -1");
  hello.mutable_hello()->set_memory_bytes(0);
  for (const int64_t bad : {int64_t{-1}, int64_t{1} << 62}) {
    hello.mutable_hello()->set_latest_epoch(bad);
    ExpectRefused(hello, absl::StrCat("latest_epoch: ", bad));
  }
}

TEST_F(RangesTest, RefusesWhatACoordinatorCannotMean) {
  EXPECT_TRUE(FromProto(join_).ok());
  for (const int64_t bad : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min(),
                            std::numeric_limits<int64_t>::max()}) {
    join_.mutable_join_group()->set_epoch(bad);
    ExpectRefused(join_, absl::StrCat("epoch: ", bad));
  }
  join_.mutable_join_group()->set_epoch(5);
  join_.mutable_join_group()->set_secret(std::string(65, 's'));
  ExpectRefused(join_, "secret: 65 bytes, at most 64");
  pb::CoordinatorMessage leave;
  leave.mutable_leave_group()->set_epoch(std::numeric_limits<int64_t>::max());
  ExpectRefused(leave, "epoch: 9223372036854775807");
  pb::CoordinatorMessage load;
  load.mutable_load_model()->set_model_path(std::string(4097, '/'));
  ExpectRefused(load, "model_path: 4097 bytes, at most 4096");
}

TEST_F(RangesTest, SendsTextsThatAreNotUtf8AsTexts) {
  const auto received = FromWorker(StepFailed{3, absl::InternalError("file \xff\xfe is no file")});
  EXPECT_EQ(received.status.message(), "file \\xff\\xfe is no file");
}

}  // namespace
}  // namespace bora
