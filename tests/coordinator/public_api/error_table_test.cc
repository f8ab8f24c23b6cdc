// The error table, row by row, as a client decodes it; one case for each row that can occur.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <regex>
#include <string>
#include <thread>

#include "base/clock.h"
#include "coordinator/grpc/request_parsing.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/public_api/test_server.h"

namespace bora {
namespace {

namespace v1 = inference::v1;
using testing::HasSubstr;
using testing::IsSupersetOf;
using testing::Key;
using testing::UnorderedElementsAre;

class ErrorTableTest : public testing::Test {
 protected:
  ErrorTableTest() : server_(FakeEngine::Mode::kByHand) {}

  template <typename Request = v1::GenerateRequest>
  static Request Valid() {
    Request request;
    request.mutable_prompt()->set_text("ab");
    request.set_request_id("id-1");
    return request;
  }
  ClientError Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::GenerateResponse response;
    return Check(Decode(server_.stub->Generate(&context, request, &response)));
  }
  ClientError GenerateStream(const v1::GenerateStreamRequest& request,
                             grpc::ClientContext* context) {
    auto reader = server_.stub->GenerateStream(context, request);
    v1::GenerateStreamResponse message;
    while (reader->Read(&message)) {
    }
    return Check(Decode(reader->Finish()));
  }
  // How a request that is accepted ends when the engine fails it.
  ClientError FailedByEngine(const ApiError& error) {
    grpc::ClientContext context;
    auto reader = server_.stub->GenerateStream(&context, Valid<v1::GenerateStreamRequest>());
    server_.engine.WaitForRequest(1);
    server_.engine.Fail(1, error);
    v1::GenerateStreamResponse message;
    EXPECT_FALSE(reader->Read(&message));
    return Check(Decode(reader->Finish()));
  }
  // What holds for every error: a domain, a reason, and every number of the text in the metadata.
  static ClientError Check(ClientError error) {
    if (error.code == grpc::StatusCode::OK || error.reason.empty()) return error;
    EXPECT_EQ(error.domain, "bora.dev");
    EXPECT_FALSE(error.request_id.empty());
    EXPECT_TRUE(std::regex_match(error.reason, std::regex("[A-Z][A-Z0-9_]+[A-Z0-9]")));
    std::string all_values;
    for (const auto& [key, value] : error.metadata) all_values += " " + value;
    const std::regex number("[0-9][0-9.]*[0-9]|[0-9]");
    for (std::sregex_iterator it(error.message.begin(), error.message.end(), number), end;
         it != end; ++it) {
      EXPECT_THAT(all_values, HasSubstr(it->str())) << error.message;
    }
    return error;
  }

  TestServer server_;
};

TEST_F(ErrorTableTest, InvalidFieldsAreAllNamedAtOnce) {
  v1::GenerateRequest request = Valid();
  request.mutable_prompt()->set_truncate_prompt_tokens(-1);
  request.mutable_sampling()->set_temperature(std::nanf(""));
  request.mutable_sampling()->set_top_p(0);
  request.mutable_sampling()->set_top_k(-1);
  request.mutable_sampling()->set_min_p(std::numeric_limits<float>::infinity());
  request.mutable_sampling()->set_repetition_penalty(0);
  request.mutable_sampling()->set_frequency_penalty(2.5f);
  request.mutable_sampling()->set_presence_penalty(-2.5f);
  request.mutable_stopping()->set_max_tokens(0);
  request.mutable_stopping()->set_min_tokens(-5);
  request.mutable_stopping()->add_stop("");
  request.mutable_stopping()->add_stop_token_ids(272);
  request.mutable_stopping()->mutable_time_limit()->set_seconds(-3);
  request.mutable_output()->set_logprobs(-1);
  request.mutable_output()->set_prompt_logprobs(21);
  request.set_request_id("no spaces");
  const ClientError error = Generate(request);
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  EXPECT_THAT(
      error.violations,
      UnorderedElementsAre(
          Key("prompt.truncate_prompt_tokens"), Key("sampling.temperature"), Key("sampling.top_p"),
          Key("sampling.top_k"), Key("sampling.min_p"), Key("sampling.repetition_penalty"),
          Key("sampling.frequency_penalty"), Key("sampling.presence_penalty"),
          Key("stopping.max_tokens"), Key("stopping.min_tokens"), Key("stopping.stop[0]"),
          Key("stopping.stop_token_ids[0]"), Key("stopping.time_limit"), Key("output.logprobs"),
          Key("output.prompt_logprobs"), Key("request_id")));
  EXPECT_EQ(error.violations.at("sampling.temperature"), "is nan; it must be in [0, 100]");
  EXPECT_EQ(error.violations.at("sampling.repetition_penalty"), "is 0; it must be in [0.01, 100]");
  EXPECT_EQ(error.violations.at("sampling.frequency_penalty"), "is 2.5; it must be in [-2, 2]");
}

TEST_F(ErrorTableTest, UnknownTokenIdsAreNamedByPlace) {
  v1::GenerateRequest request;
  for (const int id : {5, -1, 7, 272, 1000, 2000, 3000}) {
    request.mutable_prompt()->mutable_token_ids()->add_ids(id);
  }
  const ClientError error = Generate(request);
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  EXPECT_THAT(error.violations,
              UnorderedElementsAre(Key("prompt.token_ids.ids[1]"), Key("prompt.token_ids.ids[3]"),
                                   Key("prompt.token_ids.ids[4]"), Key("prompt.token_ids.ids[5]"),
                                   Key("prompt.token_ids.ids")));
}

// Clients drop trailers of more than 8 KiB, and with them the error.
TEST_F(ErrorTableTest, WorstErrorFitsIntoTrailers) {
  v1::GenerateRequest request;
  for (int i = 0; i < 100'000; ++i) {
    request.mutable_prompt()->mutable_token_ids()->add_ids(INT32_MIN);
    request.mutable_stopping()->add_stop_token_ids(INT32_MIN);
  }
  for (int i = 0; i < 1000; ++i) request.mutable_stopping()->add_stop(std::string(300, 'x'));
  request.mutable_prompt()->set_truncate_prompt_tokens(INT32_MIN);
  request.mutable_sampling()->set_temperature(-1.23456789e-30f);
  request.mutable_sampling()->set_top_p(-1.23456789e-30f);
  request.mutable_sampling()->set_top_k(INT32_MIN);
  request.mutable_sampling()->set_min_p(-1.23456789e-30f);
  request.mutable_stopping()->set_max_tokens(INT32_MIN);
  request.mutable_stopping()->set_min_tokens(INT32_MIN);
  request.mutable_stopping()->mutable_time_limit()->set_seconds(INT64_MIN);
  request.mutable_stopping()->mutable_time_limit()->set_nanos(INT32_MIN);
  request.mutable_output()->set_logprobs(INT32_MIN);
  request.mutable_output()->set_prompt_logprobs(INT32_MIN);
  request.set_request_id(std::string(1'000'000, ' '));
  const ClientError error = Generate(request);
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  // 5 of each id list, 5 of the stop sequences, and 11 single fields; the count of the distinct ids
  // with the model's own is within its limit.
  EXPECT_EQ(error.violations.size(), 26u);
}

TEST_F(ErrorTableTest, AbsentPrompt) {
  EXPECT_THAT(Generate(v1::GenerateRequest()).violations, UnorderedElementsAre(Key("prompt")));
}

// protobuf's C++ serialiser lets invalid UTF-8 through; the parser does not.
TEST_F(ErrorTableTest, InvalidUtf8IsAnInvalidField) {
  v1::GenerateRequest request = Valid();
  request.mutable_prompt()->set_text(
      "a\xFF"
      "b");
  request.mutable_stopping()->add_stop("fine");
  request.mutable_stopping()->add_stop("\xC3");
  const ClientError error = Generate(request);
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("prompt.text"), Key("stopping.stop[1]")));
}

TEST_F(ErrorTableTest, BytesThatAreNoMessage) {
  v1::GenerateRequest message;
  const ApiError error = DiagnoseUnparsable("\xFF\xFF\xFF", message);
  EXPECT_EQ(error.code, absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(error.violations.size(), 1u);
  EXPECT_THAT(error.violations[0].description, HasSubstr("bora.inference.v1.GenerateRequest"));
}

TEST_F(ErrorTableTest, ContextLengthByPrompt) {
  v1::GenerateRequest request = Valid();
  // The longest piece has 32 bytes: 4096 tokens for certain.
  request.mutable_prompt()->set_text(std::string(32 * 4096, 'c'));
  const ClientError error = Generate(request);
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_THAT(error.metadata, IsSupersetOf({Key("promptTokenCount"), Key("contextLength")}));
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("prompt")));
}

TEST_F(ErrorTableTest, ContextLengthByMaxTokens) {
  v1::GenerateRequest request = Valid();
  request.mutable_stopping()->set_max_tokens(4094);
  const ClientError error = Generate(request);
  EXPECT_EQ(error.reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(error.metadata.at("contextLength"), "4096");
  EXPECT_EQ(error.metadata.at("promptTokenCount"), "3");
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("stopping.max_tokens")));
}

TEST_F(ErrorTableTest, LimitOfThisServer) {
  v1::GenerateRequest request = Valid();
  request.mutable_output()->set_logprobs(21);
  for (int i = 0; i < 17; ++i) request.mutable_stopping()->add_stop("x");
  request.mutable_stopping()->set_stop(3, std::string(257, 'x'));
  for (int i = 0; i < 65; ++i) request.mutable_stopping()->add_stop_token_ids(i);
  const ClientError error = Generate(request);
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
  EXPECT_THAT(error.metadata, IsSupersetOf({Key("limit")}));
  EXPECT_THAT(error.violations,
              UnorderedElementsAre(Key("output.logprobs"), Key("stopping.stop"),
                                   Key("stopping.stop[3]"), Key("stopping.stop_token_ids")));
}

TEST_F(ErrorTableTest, WholeAnswerThatWouldBeTooLarge) {
  v1::GenerateRequest request = Valid();
  request.mutable_output()->set_logprobs(20);
  request.mutable_stopping()->set_max_tokens(4000);
  request.mutable_prompt()->set_text("a");
  EXPECT_EQ(Generate(request).code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Generate(request).reason, "LIMIT_EXCEEDED");
  EXPECT_THAT(Generate(request).message, HasSubstr("use GenerateStream"));
}

// That the answer is too large only shows when it is made: five bytes for each of the text's.
TEST_F(ErrorTableTest, WholeAnswerThatIsTooLarge) {
  v1::TokenizeRequest request;
  request.add_texts(std::string(900'000, 'c'));
  request.set_token_bytes(true);
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  const ClientError error = Check(Decode(server_.stub->Tokenize(&context, request, &response)));
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
  EXPECT_EQ(error.metadata.at("limit"), "4194304");
  EXPECT_GT(std::stoll(error.metadata.at("answerBytes")), 4'194'304);
  EXPECT_THAT(error.violations, testing::IsEmpty());
  EXPECT_EQ(error.message, absl::StrCat("the answer would have ", error.metadata.at("answerBytes"),
                                        " bytes, more than the limit of 4194304: ask for less in "
                                        "one call"));
}

TEST_F(ErrorTableTest, PromptOfTooManyBytes) {
  v1::GenerateRequest request = Valid();
  request.mutable_prompt()->set_text(std::string((1 << 20) + 1, ' '));
  const ClientError error = Generate(request);
  EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("prompt.text")));
}

TEST_F(ErrorTableTest, UnknownModel) {
  v1::GenerateRequest request = Valid();
  request.set_model("models/other");
  const ClientError error = Generate(request);
  EXPECT_EQ(error.code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(error.reason, "MODEL_NOT_FOUND");
  EXPECT_EQ(error.resource_name, "models/other");
  EXPECT_EQ(error.request_id, "id-1");
}

TEST_F(ErrorTableTest, MessageTooLarge) {
  v1::GenerateRequest request = Valid();
  request.mutable_prompt()->set_text(std::string(5'000'000, 'a'));
  const ClientError error = Generate(request);
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("(message)")));
  EXPECT_THAT(error.message, HasSubstr("at most 4194304 bytes"));
  // Beyond twice the limit gRPC answers.
  request.mutable_prompt()->set_text(std::string(10'000'000, 'a'));
  EXPECT_EQ(Generate(request).code, grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ErrorTableTest, MetadataTooLarge) {
  // As HTTP/2 counts: 32 bytes for each entry; gRPC adds the agent's name and version.
  for (const auto& [n_entries, value_bytes] : {std::pair(1, 17'000), std::pair(400, 10)}) {
    grpc::ClientContext context;
    for (int i = 0; i < n_entries; ++i) {
      context.AddMetadata(absl::StrCat("key", i), std::string(value_bytes, 'v'));
    }
    v1::TokenizeRequest request;
    request.add_texts("ab");
    v1::TokenizeResponse response;
    const ClientError error = Check(Decode(server_.stub->Tokenize(&context, request, &response)));
    EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
    EXPECT_THAT(error.violations, UnorderedElementsAre(Key("(metadata)")));
    EXPECT_THAT(error.message, HasSubstr("at most 16384 bytes"));
  }
}

TEST_F(ErrorTableTest, CompressedRequestsCountAsWhatTheyHold) {
  for (const size_t n_bytes : {size_t{60'000}, size_t{4'000'000}, size_t{5'000'000}}) {
    v1::TokenizeRequest request;
    request.add_texts(std::string(n_bytes, 'z'));
    grpc::ClientContext context;
    context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
    v1::TokenizeResponse response;
    const grpc::Status status = server_.stub->Tokenize(&context, request, &response);
    if (n_bytes < 1 << 20) {
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_GT(response.results(0).token_ids_size(), 1);
      continue;
    }
    const ClientError error = Check(Decode(status));
    EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
    EXPECT_THAT(error.violations,
                UnorderedElementsAre(Key(n_bytes > 4 << 20 ? "(message)" : "texts[0]")));
  }
}

TEST_F(ErrorTableTest, RefusalsOfTheEngineCarryRetryDelayAndPushback) {
  for (const char* reason : {reason::kQueueFull, reason::kNotReady, reason::kDraining}) {
    SCOPED_TRACE(reason);
    server_.engine.Refuse(MakeError(absl::StatusCode::kUnavailable, reason));
    grpc::ClientContext context;
    const ClientError error = GenerateStream(Valid<v1::GenerateStreamRequest>(), &context);
    EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(error.reason, reason);
    EXPECT_EQ(error.retry_delay_ms, 20);
    const auto& trailers = context.GetServerTrailingMetadata();
    ASSERT_EQ(trailers.count("grpc-retry-pushback-ms"), 1u);
    EXPECT_EQ(trailers.find("grpc-retry-pushback-ms")->second, "20");
    EXPECT_EQ(trailers.find("x-request-id")->second, "id-1");
  }
}

// gRPC clients retry a stream only if the error came without headers of its own.
TEST_F(ErrorTableTest, RefusalIsRetriedByClientOnItsOwn) {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(R"({"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,
      "initialBackoff":"0.01s","maxBackoff":"0.1s","backoffMultiplier":2,
      "retryableStatusCodes":["UNAVAILABLE"]}}]})");
  auto stub = v1::InferenceService::NewStub(server_.Connect(arguments));
  server_.engine.Refuse(MakeError(absl::StatusCode::kUnavailable, reason::kQueueFull));
  server_.engine.Refuse(MakeError(absl::StatusCode::kUnavailable, reason::kQueueFull));
  grpc::ClientContext context;
  auto reader = stub->GenerateStream(&context, Valid<v1::GenerateStreamRequest>());
  // The client's retries need its Read.
  std::thread engine([this] {
    server_.engine.WaitForRequest(1);
    server_.engine.Emit(1, WithFinish(MakeDelta({5}, "x")));
  });
  v1::GenerateStreamResponse message;
  EXPECT_TRUE(reader->Read(&message));
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_TRUE(reader->Finish().ok());
  engine.join();
}

TEST_F(ErrorTableTest, WorkerLostBeforeTheFirstToken) {
  const ClientError error =
      FailedByEngine(MakeError(absl::StatusCode::kUnavailable, reason::kWorkerLost));
  EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.reason, "WORKER_LOST");
  EXPECT_EQ(error.retry_delay_ms, 20);
}

TEST_F(ErrorTableTest, DeadlineInQueue) {
  const ClientError error =
      FailedByEngine(MakeError(absl::StatusCode::kDeadlineExceeded, reason::kDeadlineInQueue));
  EXPECT_EQ(error.code, grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(error.reason, "DEADLINE_IN_QUEUE");
}

TEST_F(ErrorTableTest, NonFiniteLogits) {
  const ClientError error =
      FailedByEngine(MakeError(absl::StatusCode::kInternal, reason::kNonFiniteLogits));
  EXPECT_EQ(error.code, grpc::StatusCode::INTERNAL);
  EXPECT_EQ(error.reason, "NON_FINITE_LOGITS");
}

TEST_F(ErrorTableTest, FaultAfterTheFirstMessageKeepsWhatWasDelivered) {
  grpc::ClientContext context;
  auto reader = server_.stub->GenerateStream(&context, Valid<v1::GenerateStreamRequest>());
  server_.engine.WaitForRequest(1);
  server_.engine.Emit(1, MakeDelta({5}, "x"));
  // Not yet written when the fault comes, perhaps: it must arrive all the same.
  server_.engine.Emit(1, MakeDelta({6}, "y"));
  server_.engine.Fail(1, MakeError(absl::StatusCode::kUnavailable, reason::kWorkerLost));
  std::string text;
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) text += message.text_delta();
  const ClientError error = Check(Decode(reader->Finish()));
  EXPECT_EQ(text, "xy");
  EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.reason, "WORKER_LOST");
}

TEST_F(ErrorTableTest, BadRequestIsRefusedWithinMilliseconds) {
  // The worst that is refused without tokenizing: a MiB that cannot fit.
  v1::GenerateRequest request = Valid();
  request.mutable_prompt()->set_text(std::string(1 << 20, 'c'));
  Generate(request);  // connects
  absl::Duration best = absl::InfiniteDuration();
  for (int i = 0; i < 5; ++i) {
    const SteadyTime start = SteadyNow();
    EXPECT_EQ(Generate(request).reason, "CONTEXT_LENGTH_EXCEEDED");
    best = std::min(best, SteadyNow() - start);
  }
  RecordProperty("best_us", static_cast<int>(absl::ToInt64Microseconds(best)));
  // Generous: a machine under load, sanitizers. Tokenizing it takes longer.
  EXPECT_LT(best, absl::Milliseconds(250));
}

TEST_F(ErrorTableTest, TokenizeAndDetokenizeNameTheirFields) {
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  v1::TokenizeRequest request;
  for (int i = 0; i < 129; ++i) request.add_texts("a");
  ClientError error = Check(Decode(server_.stub->Tokenize(&context, request, &response)));
  EXPECT_EQ(error.reason, "LIMIT_EXCEEDED");
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("texts")));

  grpc::ClientContext context2;
  v1::DetokenizeRequest request2;
  v1::DetokenizeResponse response2;
  request2.add_inputs()->add_ids(272);
  error = Check(Decode(server_.stub->Detokenize(&context2, request2, &response2)));
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  EXPECT_THAT(error.violations, UnorderedElementsAre(Key("inputs[0].ids[0]")));
}

}  // namespace
}  // namespace bora
